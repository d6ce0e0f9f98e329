// The C ABI of the Rust text library: byte ranges in, owned buffers and a status out.
//
// A function that returns a status writes its results only on OPTIQ_TEXT_OK; else it
// writes a message to `error`. Every buffer written is given back to optiq_free_*.
// Ranges need no terminating zero and may hold zeros. Handles may be shared by threads,
// streams may not.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  OPTIQ_TEXT_OK = 0,
  OPTIQ_TEXT_ARGUMENT = 1,  // the caller's argument is wrong
  OPTIQ_TEXT_FILE = 2,      // the file that was loaded is wrong
  OPTIQ_TEXT_BUG = 3,       // the library is wrong
} optiq_text_status;

// clang-format off
typedef struct { const uint8_t* data; size_t size; } optiq_bytes_view;
typedef struct { const uint32_t* data; size_t size; } optiq_ids_view;
typedef struct { const size_t* data; size_t size; } optiq_offsets_view;
typedef struct { uint8_t* data; size_t size; } optiq_bytes;
typedef struct { uint32_t* data; size_t size; } optiq_ids;
typedef struct { size_t* data; size_t size; } optiq_offsets;
// clang-format on

void optiq_free_bytes(optiq_bytes buffer);
void optiq_free_ids(optiq_ids buffer);
void optiq_free_offsets(optiq_offsets buffer);

typedef struct optiq_tokenizer optiq_tokenizer;
typedef struct optiq_stream optiq_stream;
typedef struct optiq_template optiq_template;

// `config` is tokenizer_config.json, or empty.
optiq_text_status optiq_tokenizer_new(optiq_bytes_view json, optiq_bytes_view config,
                                      optiq_tokenizer** out, optiq_bytes* error);
void optiq_tokenizer_free(optiq_tokenizer*);
uint32_t optiq_tokenizer_vocab_size(const optiq_tokenizer*);
int64_t optiq_tokenizer_id(const optiq_tokenizer*, optiq_bytes_view token);
bool optiq_tokenizer_is_special(const optiq_tokenizer*, uint32_t id);
optiq_text_status optiq_tokenizer_encode(const optiq_tokenizer*, optiq_bytes_view text,
                                         bool add_special, bool parse_special,
                                         optiq_ids* out, optiq_bytes* error);
// `literal_at`: ascending offsets of characters that no added token may cover.
optiq_text_status optiq_tokenizer_encode_literal(const optiq_tokenizer*,
                                                 optiq_bytes_view text,
                                                 optiq_offsets_view literal_at,
                                                 optiq_ids* out, optiq_bytes* error);
optiq_text_status optiq_tokenizer_decode(const optiq_tokenizer*, optiq_ids_view ids,
                                         bool skip_special, optiq_bytes* out,
                                         optiq_bytes* error);
optiq_text_status optiq_tokenizer_token_bytes(const optiq_tokenizer*, uint32_t id,
                                              optiq_bytes* out, optiq_bytes* error);

optiq_stream* optiq_stream_new(const optiq_tokenizer*, bool skip_special);
void optiq_stream_free(optiq_stream*);
optiq_text_status optiq_stream_push(optiq_stream*, uint32_t id, optiq_bytes* out,
                                    optiq_bytes* error);
optiq_text_status optiq_stream_finish(optiq_stream*, optiq_bytes* out,
                                      optiq_bytes* error);

// `tokenizer` may be null: then no text is told apart as a control token.
optiq_text_status optiq_template_new(optiq_bytes_view source,
                                     const optiq_tokenizer* tokenizer,
                                     optiq_template** out, optiq_bytes* error);
void optiq_template_free(optiq_template*);
// JSON: `messages` a list; `given` variables from the caller, `ours` from the
// tokenizer. `moment` is the Unix time for strftime_now; null is now.
optiq_text_status optiq_template_render(const optiq_template*,
                                        optiq_bytes_view messages,
                                        optiq_bytes_view given, optiq_bytes_view ours,
                                        const int64_t* moment, optiq_bytes* out,
                                        optiq_offsets* literal_at, optiq_bytes* error);

typedef struct optiq_grammar_compiler optiq_grammar_compiler;
typedef struct optiq_constraint optiq_constraint;

// `end_ids` may come only where a text may end.
optiq_text_status optiq_compiler_new(const optiq_tokenizer*, uint32_t n_logits,
                                     optiq_ids_view end_ids,
                                     optiq_grammar_compiler** out, optiq_bytes* error);
void optiq_compiler_free(optiq_grammar_compiler*);
// `kind`: 0 a JSON schema, 1 a regular expression, 2 a grammar in Lark.
optiq_text_status optiq_constraint_new(const optiq_grammar_compiler*, uint32_t kind,
                                       optiq_bytes_view source, optiq_constraint** out,
                                       optiq_bytes* error);
optiq_constraint* optiq_constraint_copy(const optiq_constraint*);
void optiq_constraint_free(optiq_constraint*);
// Token i is bit i % 32 of word i / 32; as many words as the logits need.
optiq_text_status optiq_constraint_mask(optiq_constraint*, uint32_t* mask, size_t size,
                                        optiq_bytes* error);
optiq_text_status optiq_constraint_accept(optiq_constraint*, uint32_t id,
                                          optiq_bytes* error);
bool optiq_constraint_may_end(optiq_constraint*);
bool optiq_constraint_must_end(optiq_constraint*);

typedef struct optiq_pattern optiq_pattern;

// A regular expression, matched anywhere in a text.
optiq_text_status optiq_pattern_new(optiq_bytes_view source, optiq_pattern** out,
                                    optiq_bytes* error);
void optiq_pattern_free(optiq_pattern*);
bool optiq_pattern_is_match(const optiq_pattern*, optiq_bytes_view text);

#ifdef __cplusplus
}
#endif
