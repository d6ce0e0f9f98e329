//! Text to ids, with or without the special tokens that the text spells.

use tokenizers::tokenizer::normalizer::Range;
use tokenizers::{
    AddedVocabulary, Encoding, Model, NormalizedString, Normalizer, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, Token,
};

use crate::boundary::{Failure, Outcome};
use crate::provenance::unused_character;
use crate::tokenizer::Tokenizer;

fn failed(error: tokenizers::Error) -> Failure {
    Failure::argument(format!("the text cannot be encoded: {error}"))
}

/// The offset after the character at `at`.
fn after(text: &str, at: usize) -> usize {
    at + text[at..].chars().next().map_or(0, char::len_utf8)
}

/// A stretch of the text, and the added token that it is, if it is one.
struct Stretch {
    begin: usize,
    end: usize,
    token: Option<Token>,
}

impl Tokenizer {
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Outcome<Vec<u32>> {
        if parse_special {
            let encoding = self.inner.encode_fast(text, add_special).map_err(failed)?;
            return Ok(encoding.get_ids().to_vec());
        }
        let normalizer = self.inner.get_normalizer();
        let stretches = self.plain.extract_and_normalize(normalizer, text);
        let mut encoding = self.finish(stretches)?;
        if encoding.get_ids().iter().any(|id| self.special.contains_key(id)) {
            // The model itself holds the special token's text as a piece.
            encoding = self.literal(text, &self.special_in(text))?;
        }
        let encoding = self.inner.post_process(encoding, None, add_special).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Encodes with added tokens recognised, but none that holds a character whose byte
    /// offset is in `literal_at`.
    pub fn encode_literal(&self, text: &str, literal_at: &[usize]) -> Outcome<Vec<u32>> {
        if literal_at.is_empty() {
            return self.encode(text, false, true);
        }
        if literal_at.iter().any(|at| *at >= text.len() || !text.is_char_boundary(*at)) {
            return Err(Failure::argument("a literal character lies outside of the text"));
        }
        Ok(self.literal(text, literal_at)?.get_ids().to_vec())
    }

    /// The added tokens are found in a copy of the text whose literal characters are
    /// replaced by one that no token holds; what lies between them is then encoded
    /// from the text itself, as the whole text would be.
    fn literal(&self, text: &str, literal_at: &[usize]) -> Outcome<Encoding> {
        let stretches = self.stretches(text, literal_at)?;
        let expected = stretches.iter().filter(|one| self.is_special(&one.token)).count();
        let encoding = self.finish(self.cut(text, stretches)?)?;
        let found = encoding.get_ids().iter().filter(|id| self.special.contains_key(id)).count();
        if found == expected {
            return Ok(encoding);
        }
        // A model whose own vocabulary holds special tokens (Unigram can) may build one
        // from plain text; it cannot where the text is cut around its
        // literal characters.
        let mut cut = Vec::new();
        for one in self.stretches(text, literal_at)? {
            let mut begin = one.begin;
            let edges = literal_at.iter().flat_map(|at| [*at, after(text, *at)]);
            for edge in edges.filter(|edge| one.begin < *edge && *edge < one.end) {
                cut.push(Stretch { begin, end: edge, token: None });
                begin = edge;
            }
            cut.push(Stretch { begin, ..one });
        }
        self.finish(self.cut(text, cut)?)
    }

    fn is_special(&self, token: &Option<Token>) -> bool {
        token.as_ref().is_some_and(|token| self.special.contains_key(&token.id))
    }

    /// Where special tokens are spelled: the offset of each one's second character (its
    /// first, if it has no other), so that cuts around it part it.
    fn special_in(&self, text: &str) -> Vec<usize> {
        let mut offsets: Vec<usize> = self
            .special
            .values()
            .flat_map(|content| {
                let second = content.char_indices().nth(1).map_or(0, |(at, _)| at);
                text.match_indices(content.as_str()).map(move |(at, _)| at + second)
            })
            .collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets
    }

    fn stretches(&self, text: &str, literal_at: &[usize]) -> Outcome<Vec<Stretch>> {
        let contents: String = self.added.iter().map(|token| token.content.as_str()).collect();
        let hidden = unused_character(&[text, &contents])
            .ok_or_else(|| Failure::argument("the text holds every private character"))?;
        let mut marked = String::with_capacity(text.len() + 3 * literal_at.len());
        // (offset in `marked`, offset in `text`) after each literal character.
        let mut shifts = vec![(0, 0)];
        let mut done = 0;
        for at in literal_at {
            marked += &text[done..*at];
            marked.push(hidden);
            done = after(text, *at);
            shifts.push((marked.len(), done));
        }
        marked += &text[done..];
        let original = |offset: usize| {
            let (from, to) = shifts[shifts.partition_point(|(from, _)| *from <= offset) - 1];
            to + (offset - from)
        };
        let vocabulary: &AddedVocabulary = self.inner.get_added_vocabulary();
        let found = vocabulary.extract_and_normalize(self.inner.get_normalizer(), &marked);
        let mut stretches = Vec::new();
        let mut begin = 0;
        for (_, (from, to), tokens) in
            found.get_splits(OffsetReferential::Original, OffsetType::Byte)
        {
            if let Some(token) = tokens.as_ref().and_then(|tokens| tokens.first()) {
                let (from, to) = (original(from), original(to));
                stretches.push(Stretch { begin, end: from, token: None });
                stretches.push(Stretch { begin: from, end: to, token: Some(token.clone()) });
                begin = to;
            }
        }
        stretches.push(Stretch { begin, end: text.len(), token: None });
        stretches.retain(|one| one.begin < one.end);
        Ok(stretches)
    }

    fn cut(&self, text: &str, stretches: Vec<Stretch>) -> Outcome<PreTokenizedString> {
        let mut cut = PreTokenizedString::from(text);
        let slices = |_: usize, whole: NormalizedString| {
            let slice = |one: &Stretch| {
                let slice = whole.slice(Range::Original(one.begin..one.end));
                let slice = slice.ok_or("a token splits a character")?;
                Ok((slice, one.token.clone().map(|token| vec![token])))
            };
            stretches.iter().map(slice).collect::<tokenizers::Result<Vec<_>>>()
        };
        cut.split(slices).map_err(failed)?;
        if let Some(normalizer) = self.inner.get_normalizer() {
            cut.normalize(|piece| normalizer.normalize(piece)).map_err(failed)?;
        }
        Ok(cut)
    }

    fn finish(&self, mut pieces: PreTokenizedString) -> Outcome<Encoding> {
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        let model = self.inner.get_model();
        model.tokenize_in_pretokenized(&mut pieces, None).map_err(failed)?;
        pieces.into_encoding(None, 0, OffsetType::None).map_err(failed)
    }
}
