//! Ids to text, all at once or as they come.
//!
//! What a stream emits concatenates to what `decode` gives for all its ids. That needs
//! to know how far the next token can still change the text before it:
//! - ByteLevel tokens are bytes; a replacement character is decided once the bytes
//!   after it rule out a longer sequence, as `String::from_utf8_lossy` decides it.
//! - With byte fallback (`<0xE2>`) a whole run of byte tokens becomes text or
//!   replacement characters together, so a run is held until a token ends it.
//! - Any other decoder may look at all of its tokens: its text comes at the end.

use std::sync::Arc;

use serde_json::Value as Json;
use tokenizers::{Decoder, DecoderWrapper, Tokenizer as HuggingFace};

use crate::boundary::{Failure, Outcome};
use crate::tokenizer::Tokenizer;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bytes,
    Pieces,
    Whole,
}

pub struct Decoding {
    kind: Kind,
}

/// GPT-2's spelling of bytes: printable Latin-1 characters stand for themselves, the
/// 68 other bytes for U+0100 and up, in order.
fn byte_of(spelled: char) -> Option<u8> {
    let stands_for_itself = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    match u32::from(spelled) {
        code @ 0..=255 => stands_for_itself(code as u8).then_some(code as u8),
        code @ 256..=323 => {
            (0..=255u8).filter(|byte| !stands_for_itself(*byte)).nth((code - 256) as usize)
        }
        _ => None,
    }
}

/// The bytes of a ByteLevel token; one with any other character is plain text.
fn bytes_of(spelled: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = spelled.chars().map(byte_of).collect();
    bytes.unwrap_or_else(|| spelled.as_bytes().to_vec())
}

fn is_byte_token(spelled: &str) -> bool {
    spelled.len() == 6
        && spelled.starts_with("<0x")
        && spelled.ends_with('>')
        && spelled.get(3..5).is_some_and(|hex| u8::from_str_radix(hex, 16).is_ok())
}

fn kind_of(decoder: &Json) -> Kind {
    match decoder["type"].as_str() {
        Some("ByteLevel") => Kind::Bytes,
        Some("Replace" | "ByteFallback" | "Fuse" | "Metaspace") => Kind::Pieces,
        Some("Strip") if decoder["stop"] == 0 && decoder["start"].as_u64() <= Some(1) => {
            Kind::Pieces
        }
        Some("Sequence") => match decoder["decoders"].as_array().map(Vec::as_slice) {
            Some([one]) => kind_of(one),
            Some(all) if all.iter().all(|one| kind_of(one) == Kind::Pieces) => Kind::Pieces,
            _ => Kind::Whole,
        },
        _ => Kind::Whole,
    }
}

impl Decoding {
    pub fn of(tokenizer: &HuggingFace) -> Decoding {
        let decoder = tokenizer.get_decoder().and_then(|one| serde_json::to_value(one).ok());
        Decoding { kind: decoder.map_or(Kind::Whole, |decoder| kind_of(&decoder)) }
    }

    /// True where a token adds the same bytes whatever stands around it.
    pub fn has_token_bytes(&self) -> bool {
        self.kind != Kind::Whole
    }

    /// What one token adds to a text that other tokens began; not always UTF-8.
    pub fn token_bytes(&self, tokenizer: &Tokenizer, id: u32) -> Outcome<Vec<u8>> {
        let spelled = tokenizer.spelled(id)?;
        match self.kind {
            Kind::Bytes => Ok(bytes_of(&spelled)),
            Kind::Pieces if is_byte_token(&spelled) => {
                Ok(vec![u8::from_str_radix(&spelled[3..5], 16).unwrap_or(0)])
            }
            Kind::Pieces => Ok(continued(tokenizer, vec![spelled])?.into_bytes()),
            Kind::Whole => Ok(tokenizer.decode(&[id], false)?.into_bytes()),
        }
    }
}

fn run(tokenizer: &Tokenizer, tokens: Vec<String>) -> Outcome<String> {
    let Some(decoder): Option<&DecoderWrapper> = tokenizer.inner.get_decoder() else {
        return Ok(tokens.join(" "));
    };
    decoder.decode(tokens).map_err(|error| Failure::bug(format!("decoder: {error}")))
}

/// The text of tokens that are not the first: decoders treat a first token specially
/// (they drop its space), so an "a" goes before them and is taken off again.
fn continued(tokenizer: &Tokenizer, mut tokens: Vec<String>) -> Outcome<String> {
    tokens.insert(0, "a".into());
    let text = run(tokenizer, tokens)?;
    match text.strip_prefix('a') {
        Some(rest) => Ok(rest.into()),
        None => Err(Failure::file("the decoder of tokenizer.json rewrites plain letters")),
    }
}

pub struct Stream {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// Bytes that may still begin a character (ByteLevel).
    bytes: Vec<u8>,
    /// A run of byte tokens that may still go on (byte fallback).
    tokens: Vec<String>,
    /// Every id so far, where nothing can be told before the end.
    ids: Vec<u32>,
    begun: bool,
}

impl Stream {
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Stream {
        let (bytes, tokens, ids) = Default::default();
        Stream { tokenizer, skip_special, bytes, tokens, ids, begun: false }
    }

    pub fn push(&mut self, id: u32) -> Outcome<String> {
        let spelled = self.tokenizer.spelled(id)?;
        if self.skip_special && self.tokenizer.special.contains_key(&id) {
            return Ok(String::new());
        }
        match self.tokenizer.decoding.kind {
            Kind::Bytes => {
                self.bytes.extend(bytes_of(&spelled));
                Ok(self.decided())
            }
            Kind::Pieces if is_byte_token(&spelled) => {
                self.tokens.push(spelled);
                Ok(String::new())
            }
            Kind::Pieces => {
                let before = self.piece()?;
                self.tokens.push(spelled);
                Ok(before + &self.piece()?)
            }
            Kind::Whole => {
                self.ids.push(id);
                Ok(String::new())
            }
        }
    }

    /// What is held back; the stream is then as new.
    pub fn finish(&mut self) -> Outcome<String> {
        let mut rest = String::from_utf8_lossy(&self.bytes).into_owned();
        rest += &self.piece()?;
        if !self.ids.is_empty() {
            rest += &self.tokenizer.decode(&self.ids, self.skip_special)?;
        }
        *self = Stream::new(self.tokenizer.clone(), self.skip_special);
        Ok(rest)
    }

    fn piece(&mut self) -> Outcome<String> {
        let tokens = std::mem::take(&mut self.tokens);
        if tokens.is_empty() {
            return Ok(String::new());
        }
        if std::mem::replace(&mut self.begun, true) {
            continued(&self.tokenizer, tokens)
        } else {
            run(&self.tokenizer, tokens)
        }
    }

    /// Takes from `bytes` all that later bytes cannot change.
    fn decided(&mut self) -> String {
        let mut text = String::new();
        let mut at = 0;
        let held = loop {
            match std::str::from_utf8(&self.bytes[at..]) {
                Ok(valid) => {
                    text += valid;
                    break self.bytes.len();
                }
                Err(error) => {
                    let valid = at + error.valid_up_to();
                    text += &String::from_utf8_lossy(&self.bytes[at..valid]);
                    match error.error_len() {
                        Some(invalid) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            at = valid + invalid;
                        }
                        None => break valid,
                    }
                }
            }
        };
        self.bytes.drain(..held);
        text
    }
}
