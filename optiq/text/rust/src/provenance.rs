//! Which characters of a rendered prompt came from the messages, so that no text of a
//! user's becomes a special token.
//!
//! A control token is an added token that is special, or that the template itself
//! spells (`<think>`, `<tool_call>`) and that holds a bracket or bar; other added tokens
//! (runs of spaces, `<td>`) are plain vocabulary. The template is rendered a second time
//! with the brackets and bars of control tokens replaced, in all that the caller gave,
//! by private characters, one for one. A template's string operations commute with
//! such a replacement unless it looks for those very characters. So if undoing the
//! replacement in the second result gives the first, the private characters show what
//! came from the caller. If not, the template looks inside of messages, and the next
//! narrower replacement is tried:
//!
//! - `Brackets`: every bracket and bar; but whole non-special control tokens stay in
//!   what the application or the model wrote (system, developer, assistant), where
//!   they are meant.
//! - `Meant`: as above, and they stay in everybody's text.
//! - `Tokens`: only the brackets and bars of special tokens that one string spells.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value as Json};
use tokenizers::AddedToken;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    Brackets,
    Meant,
    Tokens,
}

pub const REACHES: [Reach; 3] = [Reach::Brackets, Reach::Meant, Reach::Tokens];

/// A private-use character that none of the texts hold.
pub fn unused_character(texts: &[&str]) -> Option<char> {
    unused_characters(texts, 1).and_then(|all| all.first().copied())
}

fn private_characters() -> impl Iterator<Item = char> {
    let planes = [0xe000..=0xf8ffu32, 0xf0000..=0xffffd, 0x100000..=0x10fffd];
    planes.into_iter().flatten().filter_map(char::from_u32)
}

fn is_private(c: char) -> bool {
    matches!(u32::from(c), 0xe000..=0xf8ff | 0xf0000..=0xffffd | 0x100000..=0x10fffd)
}

fn unused_characters(texts: &[&str], count: usize) -> Option<Vec<char>> {
    let used: HashSet<char> =
        texts.iter().flat_map(|text| text.chars()).filter(|c| is_private(*c)).collect();
    let unused: Vec<char> =
        private_characters().filter(|c| !used.contains(c)).take(count).collect();
    (unused.len() == count).then_some(unused)
}

fn is_bracket(c: char) -> bool {
    !c.is_alphanumeric() && !c.is_whitespace() && !c.is_control() && !"_-/.".contains(c)
}

/// The control tokens of a tokenizer under one template.
#[derive(Default)]
pub struct Controls {
    special: Vec<String>,
    meant: Vec<String>,
    /// What is replaced: the brackets, and the first characters of tokens without any.
    characters: Vec<char>,
}

impl Controls {
    pub fn new(added: &[AddedToken], template: &str) -> Controls {
        let mut controls = Controls::default();
        for token in added.iter().filter(|token| !token.content.is_empty()) {
            let content = token.content.clone();
            if token.special {
                controls.special.push(content);
            } else if content.contains(is_bracket) && template.contains(&content) {
                controls.meant.push(content);
            }
        }
        let all = controls.special.iter().chain(&controls.meant);
        let mut characters: Vec<char> = all
            .flat_map(|token| {
                let bare = !token.contains(is_bracket);
                token
                    .chars()
                    .enumerate()
                    .filter(move |(index, c)| is_bracket(*c) || bare && *index == 0)
            })
            .map(|(_, c)| c)
            .collect();
        characters.sort_unstable();
        characters.dedup();
        controls.characters = characters;
        controls
    }

    fn spans(tokens: &[String], text: &str) -> Vec<(usize, usize)> {
        let mut spans: Vec<(usize, usize)> = tokens
            .iter()
            .flat_map(|token| text.match_indices(token.as_str()))
            .map(|(at, token)| (at, at + token.len()))
            .collect();
        spans.sort_unstable();
        spans
    }
}

/// What stands for what in one rendering.
pub struct Marking<'a> {
    controls: &'a Controls,
    marks: BTreeMap<char, char>,
    reach: Reach,
}

impl<'a> Marking<'a> {
    /// None where all private characters are taken.
    pub fn new(controls: &'a Controls, texts: &[&str], reach: Reach) -> Option<Marking<'a>> {
        let unused = unused_characters(texts, controls.characters.len())?;
        let marks = controls.characters.iter().copied().zip(unused).collect();
        Some(Marking { controls, marks, reach })
    }

    pub fn characters(&self) -> Vec<char> {
        self.marks.values().copied().collect()
    }

    /// The offsets in `text` of characters to be replaced.
    fn offsets(&self, text: &str, author_is_trusted: bool) -> Vec<usize> {
        let special = Controls::spans(&self.controls.special, text);
        let kept = if self.reach == Reach::Meant || author_is_trusted {
            Controls::spans(&self.controls.meant, text)
        } else {
            Vec::new()
        };
        let inside = |spans: &[(usize, usize)], at: usize| {
            // Spans are few and sorted by where they begin.
            let end = spans.partition_point(|(from, _)| *from <= at);
            spans[..end].iter().rev().take(8).any(|(_, to)| at < *to)
        };
        let replaced = |at: usize, c: char| {
            if !self.marks.contains_key(&c) {
                return false;
            }
            let in_special = inside(&special, at);
            match self.reach {
                Reach::Tokens => in_special && (is_bracket(c) || begins(&special, at)),
                _ if is_bracket(c) => in_special || !inside(&kept, at),
                _ => begins(&special, at),
            }
        };
        text.char_indices().filter(|(at, c)| replaced(*at, *c)).map(|(at, _)| at).collect()
    }

    fn marked(&self, text: &str, author_is_trusted: bool) -> String {
        let offsets = self.offsets(text, author_is_trusted);
        if offsets.is_empty() {
            return text.into();
        }
        let mut next = offsets.iter().peekable();
        text.char_indices()
            .map(|(at, c)| if next.next_if_eq(&&at).is_some() { self.marks[&c] } else { c })
            .collect()
    }

    pub fn value(&self, value: &Json, author_is_trusted: bool) -> Json {
        match value {
            Json::String(text) => Json::String(self.marked(text, author_is_trusted)),
            Json::Array(items) => {
                items.iter().map(|item| self.value(item, author_is_trusted)).collect()
            }
            Json::Object(map) => Json::Object(self.map(map, author_is_trusted)),
            other => other.clone(),
        }
    }

    fn map(&self, map: &Map<String, Json>, author_is_trusted: bool) -> Map<String, Json> {
        map.iter()
            .map(|(key, value)| {
                (self.marked(key, author_is_trusted), self.value(value, author_is_trusted))
            })
            .collect()
    }

    pub fn messages(&self, messages: &Json) -> Json {
        let Some(messages) = messages.as_array() else {
            return self.value(messages, false);
        };
        messages
            .iter()
            .map(|message| {
                let trusted = message["role"].as_str().is_some_and(|role| {
                    matches!(role, "system" | "developer" | "assistant" | "model")
                });
                self.value(message, trusted)
            })
            .collect()
    }

    /// The text without marks, and the offsets in it of the marked characters that some
    /// control token spelled there covers.
    pub fn undone(&self, text: &str) -> (String, Vec<usize>) {
        let originals: BTreeMap<char, char> =
            self.marks.iter().map(|(original, mark)| (*mark, *original)).collect();
        let mut result = String::with_capacity(text.len());
        let mut offsets = Vec::new();
        for c in text.chars() {
            match originals.get(&c) {
                Some(original) => {
                    offsets.push(result.len());
                    result.push(*original);
                }
                None => result.push(c),
            }
        }
        let mut covered = Vec::new();
        for tokens in [&self.controls.special, &self.controls.meant] {
            for (from, to) in Controls::spans(tokens, &result) {
                let first = offsets.partition_point(|at| *at < from);
                let last = offsets.partition_point(|at| *at < to);
                covered.extend_from_slice(&offsets[first..last]);
            }
        }
        covered.sort_unstable();
        covered.dedup();
        (result, covered)
    }
}

fn begins(spans: &[(usize, usize)], at: usize) -> bool {
    spans.binary_search_by_key(&at, |(from, _)| *from).is_ok()
}
