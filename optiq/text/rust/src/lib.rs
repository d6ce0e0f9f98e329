//! Tokenizer, chat templates and grammars behind a C ABI (`optiq_text.h`); the C++ beside this
//! crate is its only caller.

mod boundary;
mod confined;
mod constraint;
mod conversation;
mod decoding;
mod dialect;
mod encoding;
mod generation_tag;
mod methods;
mod pattern;
mod provenance;
mod python;
mod template;
mod tokenizer;
