//! Which tokens may follow so that a text obeys a grammar: llguidance over our tokenizer.

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value as Json;

use crate::boundary::{guard, text, Buffer, Failure, Outcome, Slice, Status};
use crate::tokenizer::{one_line, Handle, Tokenizer};

/// Grammars come from strangers: what compiling and each mask may cost. A tenth of a
/// second, and some tens of megabytes.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2_000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 500_000,
        step_max_items: 100_000,
        max_lexer_states: 50_000,
        max_grammar_size: 300_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

const LARGEST_SOURCE: usize = 1 << 20;

pub struct Compiler {
    factory: ParserFactory,
    n_logits: usize,
    end_ids: Vec<u32>,
}

/// The bytes of each token; special ones behind a mark, so that no text spells them.
fn words(tokenizer: &Tokenizer, n_logits: u32) -> Outcome<Vec<Vec<u8>>> {
    let mut words = Vec::with_capacity(n_logits as usize);
    for id in 0..n_logits {
        let word = match tokenizer.special.get(&id) {
            Some(name) => {
                let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                word.extend_from_slice(name.as_bytes());
                word
            }
            // Ids that name no token never come.
            None => tokenizer.decoding.token_bytes(tokenizer, id).unwrap_or_default(),
        };
        words.push(word);
    }
    Ok(words)
}

impl Compiler {
    fn new(tokenizer: &Tokenizer, n_logits: u32, end_ids: &[u32]) -> Outcome<Compiler> {
        if !tokenizer.decoding.has_token_bytes() {
            return Err(Failure::file(
                "tokenizer.json: grammars need tokens of fixed bytes, and its decoder rewrites \
                 whole texts",
            ));
        }
        let end = *end_ids.first().ok_or_else(|| {
            Failure::argument("grammars need a token that ends an answer; the model names none")
        })?;
        let info = TokRxInfo::new(n_logits, end);
        let trie = TokTrie::from(&info, &words(tokenizer, n_logits)?).with_eos_tokens(end_ids);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment)
            .map_err(|error| Failure::bug(one_line(&error.to_string())))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Compiler { factory, n_logits: n_logits as usize, end_ids: end_ids.to_vec() })
    }

    fn compile(&self, kind: u32, source: &str) -> Outcome<Matcher> {
        if source.len() > LARGEST_SOURCE {
            return Err(Failure::argument(format!(
                "expected a grammar of at most {LARGEST_SOURCE} bytes, found {}",
                source.len()
            )));
        }
        let grammar = match kind {
            0 => {
                let mut schema: Json = serde_json::from_str(source)
                    .map_err(|error| Failure::argument(format!("the schema is no JSON: {error}")))?;
                // Else a model may write white space until it runs out of tokens.
                if let Some(schema) = schema.as_object_mut() {
                    schema.entry("x-guidance").or_insert_with(|| {
                        serde_json::json!({
                            "whitespace_flexible": false,
                            "item_separator": ", ?",
                            "key_separator": ": ?",
                        })
                    });
                }
                TopLevelGrammar::from_json_schema(schema)
            }
            1 => TopLevelGrammar::from_regex(source),
            _ => TopLevelGrammar::from_lark(source.to_string()),
        };
        let parser = self
            .factory
            .create_parser(grammar)
            .map_err(|error| Failure::argument(one_line(&format!("{error:#}"))))?;
        Ok(Matcher::new(Ok(parser)))
    }
}

pub struct Constraint {
    matcher: Matcher,
    compiler: Arc<Compiler>,
}

impl Constraint {
    fn fill_mask(&mut self, mask: &mut [u32]) -> Outcome<()> {
        if mask.len() != self.compiler.n_logits.div_ceil(32) {
            return Err(Failure::argument("the mask has another size than the logits"));
        }
        let allowed = self
            .matcher
            .compute_mask_or_eos()
            .map_err(|error| Failure::argument(one_line(&error.to_string())))?;
        let words = allowed.as_slice();
        mask.fill(0);
        let n = mask.len().min(words.len());
        mask[..n].copy_from_slice(&words[..n]);
        let may_end = self.matcher.is_stopped() || self.matcher.is_accepting().unwrap_or(false);
        for id in &self.compiler.end_ids {
            let bit = 1u32 << (id % 32);
            let word = &mut mask[(id / 32) as usize];
            *word = if may_end { *word | bit } else { *word & !bit };
        }
        let beyond = self.compiler.n_logits % 32;
        if beyond != 0 {
            if let Some(last) = mask.last_mut() {
                *last &= (1u32 << beyond) - 1;
            }
        }
        Ok(())
    }
}

#[no_mangle]
pub unsafe extern "C" fn optiq_compiler_new(
    tokenizer: &Handle,
    n_logits: u32,
    end_ids: Slice<u32>,
    out: *mut *mut Arc<Compiler>,
    error: *mut Buffer<u8>,
) -> Status {
    guard(error, || {
        let compiler = Compiler::new(tokenizer, n_logits, end_ids.get())?;
        out.write(Box::into_raw(Box::new(Arc::new(compiler))));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn optiq_compiler_free(compiler: *mut Arc<Compiler>) {
    drop(Box::from_raw(compiler));
}

#[no_mangle]
pub unsafe extern "C" fn optiq_constraint_new(
    compiler: &Arc<Compiler>,
    kind: u32,
    source: Slice<u8>,
    out: *mut *mut Constraint,
    error: *mut Buffer<u8>,
) -> Status {
    guard(error, || {
        let matcher = compiler.compile(kind, text(source)?)?;
        let constraint = Constraint { matcher, compiler: compiler.clone() };
        out.write(Box::into_raw(Box::new(constraint)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn optiq_constraint_copy(constraint: &Constraint) -> *mut Constraint {
    let matcher = constraint.matcher.deep_clone();
    Box::into_raw(Box::new(Constraint { matcher, compiler: constraint.compiler.clone() }))
}

#[no_mangle]
pub unsafe extern "C" fn optiq_constraint_free(constraint: *mut Constraint) {
    drop(Box::from_raw(constraint));
}

/// # Safety
/// `mask` points at `size` words.
#[no_mangle]
pub unsafe extern "C" fn optiq_constraint_mask(
    constraint: &mut Constraint,
    mask: *mut u32,
    size: usize,
    error: *mut Buffer<u8>,
) -> Status {
    guard(error, || constraint.fill_mask(std::slice::from_raw_parts_mut(mask, size)))
}

#[no_mangle]
pub unsafe extern "C" fn optiq_constraint_accept(
    constraint: &mut Constraint,
    id: u32,
    error: *mut Buffer<u8>,
) -> Status {
    guard(error, || {
        constraint
            .matcher
            .consume_token(id)
            .map_err(|error| Failure::argument(one_line(&error.to_string())))
    })
}

#[no_mangle]
pub unsafe extern "C" fn optiq_constraint_may_end(constraint: &mut Constraint) -> bool {
    constraint.matcher.is_stopped() || constraint.matcher.is_accepting().unwrap_or(false)
}

#[no_mangle]
pub unsafe extern "C" fn optiq_constraint_must_end(constraint: &mut Constraint) -> bool {
    constraint.matcher.is_stopped()
}
