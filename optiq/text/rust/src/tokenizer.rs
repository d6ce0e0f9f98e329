//! A loaded tokenizer.json, and the exported functions that take it.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value as Json;
use tokenizers::{AddedToken, AddedVocabulary, Model, Tokenizer as HuggingFace};

use crate::boundary::{guard, text, Buffer, Failure, Outcome, Slice, Status};
use crate::decoding::{Decoding, Stream};

pub struct Tokenizer {
    pub inner: HuggingFace,
    /// `inner`'s added tokens with the special ones switched off.
    pub plain: AddedVocabulary,
    pub special: HashMap<u32, String>,
    pub added: Vec<AddedToken>,
    pub decoding: Decoding,
    vocab_size: u32,
}

/// The tokens that tokenizer_config.json lists and tokenizer.json does not, by id;
/// transformers adds those too.
fn tokens_of_config(config: &Json, known: &HuggingFace) -> Outcome<Vec<(u32, AddedToken)>> {
    let mut tokens = Vec::new();
    let Some(listed) = config.get("added_tokens_decoder").and_then(Json::as_object) else {
        return Ok(tokens);
    };
    for (id, token) in listed {
        let flag = |name: &str| token.get(name).and_then(Json::as_bool).unwrap_or(false);
        let content = token.get("content").and_then(Json::as_str);
        let (Ok(id), Some(content)) = (id.parse::<u32>(), content) else {
            return Err(Failure::file(format!("added_tokens_decoder[{id}] has no content")));
        };
        if known.token_to_id(content).is_none() {
            let token = AddedToken::from(content, flag("special"))
                .single_word(flag("single_word"))
                .lstrip(flag("lstrip"))
                .rstrip(flag("rstrip"))
                .normalized(flag("normalized"));
            tokens.push((id, token));
        }
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens)
}

impl Tokenizer {
    fn load(json: &[u8], config: &[u8]) -> Outcome<Tokenizer> {
        // The kernels' threads own the cores; rayon's would fight them.
        tokenizers::utils::parallelism::set_parallelism(false);
        let file = |error: tokenizers::Error| Failure::file(one_line(&error.to_string()));
        let mut inner = HuggingFace::from_bytes(json).map_err(file)?;
        inner.with_truncation(None).map_err(file)?;
        inner.with_padding(None);
        if !config.is_empty() {
            let config = serde_json::from_slice(config)
                .map_err(|error| Failure::file(format!("tokenizer_config.json: {error}")))?;
            for (id, token) in tokens_of_config(&config, &inner)? {
                let content = token.content.clone();
                inner.add_tokens([token]).map_err(file)?;
                if inner.token_to_id(&content) != Some(id) {
                    return Err(Failure::file(format!(
                        "tokenizer_config.json gives {content:?} the id {id}, which does not \
                         follow the ids of tokenizer.json"
                    )));
                }
            }
        }
        let vocabulary = inner.get_added_vocabulary();
        let mut plain = vocabulary.clone();
        plain.set_encode_special_tokens(true);
        let decoder = vocabulary.get_added_tokens_decoder();
        let special = decoder
            .iter()
            .filter(|(_, token)| vocabulary.is_special_token(&token.content))
            .map(|(id, token)| (*id, token.content.clone()))
            .collect();
        let added: Vec<AddedToken> = decoder.values().cloned().collect();
        let largest = decoder.keys().copied().chain(inner.get_vocab(true).into_values()).max();
        let Some(largest) = largest else {
            return Err(Failure::file("the vocabulary is empty"));
        };
        let decoding = Decoding::of(&inner);
        let vocab_size = largest.saturating_add(1);
        Ok(Tokenizer { inner, plain, special, added, decoding, vocab_size })
    }

    /// The token's text as the vocabulary spells it (before any decoder).
    pub fn spelled(&self, id: u32) -> Outcome<String> {
        self.inner
            .get_added_vocabulary()
            .simple_id_to_token(id)
            .or_else(|| self.inner.get_model().id_to_token(id))
            .ok_or_else(|| {
                Failure::argument(format!(
                    "token id {id} names no token; the vocabulary ends before {}",
                    self.vocab_size
                ))
            })
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Outcome<String> {
        for id in ids {
            self.spelled(*id)?;
        }
        self.inner
            .decode(ids, skip_special)
            .map_err(|error| Failure::bug(format!("decoder: {error}")))
    }
}

pub fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub type Handle = Arc<Tokenizer>;

#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_new(
    json: Slice<u8>,
    config: Slice<u8>,
    out: *mut *mut Handle,
    error: *mut Buffer<u8>,
) -> Status {
    guard(error, || {
        let tokenizer = Tokenizer::load(json.get(), config.get())?;
        out.write(Box::into_raw(Box::new(Arc::new(tokenizer))));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_free(tokenizer: *mut Handle) {
    drop(Box::from_raw(tokenizer));
}

#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_vocab_size(tokenizer: &Handle) -> u32 {
    tokenizer.vocab_size
}

/// The id of a token by its text, or -1.
#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_id(tokenizer: &Handle, token: Slice<u8>) -> i64 {
    let id = text(token).ok().and_then(|token| tokenizer.inner.token_to_id(token));
    id.map_or(-1, i64::from)
}

#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_is_special(tokenizer: &Handle, id: u32) -> bool {
    tokenizer.special.contains_key(&id)
}

#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_encode(
    tokenizer: &Handle,
    input: Slice<u8>,
    add_special: bool,
    parse_special: bool,
    out: *mut Buffer<u32>,
    error: *mut Buffer<u8>,
) -> Status {
    guard(error, || {
        let ids = tokenizer.encode(text(input)?, add_special, parse_special)?;
        out.write(Buffer::new(ids));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_encode_literal(
    tokenizer: &Handle,
    input: Slice<u8>,
    literal_at: Slice<usize>,
    out: *mut Buffer<u32>,
    error: *mut Buffer<u8>,
) -> Status {
    guard(error, || {
        let ids = tokenizer.encode_literal(text(input)?, literal_at.get())?;
        out.write(Buffer::new(ids));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_decode(
    tokenizer: &Handle,
    ids: Slice<u32>,
    skip_special: bool,
    out: *mut Buffer<u8>,
    error: *mut Buffer<u8>,
) -> Status {
    guard(error, || {
        let text = tokenizer.decode(ids.get(), skip_special)?;
        out.write(Buffer::new(text.into_bytes()));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_token_bytes(
    tokenizer: &Handle,
    id: u32,
    out: *mut Buffer<u8>,
    error: *mut Buffer<u8>,
) -> Status {
    guard(error, || {
        let bytes = tokenizer.decoding.token_bytes(tokenizer, id)?;
        out.write(Buffer::new(bytes));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn optiq_stream_new(tokenizer: &Handle, skip_special: bool) -> *mut Stream {
    Box::into_raw(Box::new(Stream::new(tokenizer.clone(), skip_special)))
}

#[no_mangle]
pub unsafe extern "C" fn optiq_stream_free(stream: *mut Stream) {
    drop(Box::from_raw(stream));
}

#[no_mangle]
pub unsafe extern "C" fn optiq_stream_push(
    stream: &mut Stream,
    id: u32,
    out: *mut Buffer<u8>,
    error: *mut Buffer<u8>,
) -> Status {
    guard(error, || {
        out.write(Buffer::new(stream.push(id)?.into_bytes()));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn optiq_stream_finish(
    stream: &mut Stream,
    out: *mut Buffer<u8>,
    error: *mut Buffer<u8>,
) -> Status {
    guard(error, || {
        out.write(Buffer::new(stream.finish()?.into_bytes()));
        Ok(())
    })
}
