//! Loads and renders a chat template.
//!
//! A template comes with a model and so from a stranger. It runs on fuel, which pays for
//! steps, bytes and items alike, and confined: the deepest value that the fuel can build
//! is still freed on that stack, and what minijinja does without asking for fuel
//! (printing or hashing a list that holds itself many times over) is cut off.

use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;

use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::{Map, Value as Json};

use crate::boundary::{guard, text, Buffer, Failure, Outcome, Slice, Status};
use crate::confined::{confined, Limits};
use crate::conversation::{template_value, Input};
use crate::dialect::{environment, strftime, Raised};
use crate::generation_tag::as_scope;
use crate::provenance::{Controls, Marking, REACHES};
use crate::python;
use crate::tokenizer::{one_line, Handle};

const FUEL: u64 = 1_000_000;
/// Fuel for each byte of input: 64 bytes made of each, or one step.
const FUEL_PER_BYTE: u64 = 2;
const MEMORY_BYTES: usize = 256 << 20;
const MEMORY_PER_BYTE: usize = 128;
const TIME: Duration = Duration::from_secs(5);
const TIME_PER_BYTE: Duration = Duration::from_micros(10);
const NAME: &str = "chat_template";

fn limits(input_bytes: usize) -> Limits {
    Limits {
        memory_bytes: MEMORY_BYTES + MEMORY_PER_BYTE * input_bytes,
        time: TIME + TIME_PER_BYTE * u32::try_from(input_bytes).unwrap_or(u32::MAX),
    }
}

fn endless() -> Failure {
    Failure::file("the template does not end, or makes too much text")
}

pub struct Template {
    environment: Environment<'static>,
    source: String,
    controls: Controls,
    overran: AtomicBool,
}

fn located(error: &Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    match error.line() {
        Some(line) => one_line(&format!("line {line}: {detail}")),
        None => one_line(&detail),
    }
}

/// A refusal of the template's own, a mistake in the messages, or a broken template.
fn failure_of(error: &Error) -> Failure {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return Failure::argument(message.clone());
        }
        source = cause.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => endless(),
        ErrorKind::SyntaxError | ErrorKind::UnknownFilter | ErrorKind::UnknownTest => {
            Failure::file(located(error))
        }
        _ => Failure::argument(format!("the chat template cannot take this: {}", located(error))),
    }
}

impl Template {
    fn load(source: &str, tokenizer: Option<&Handle>) -> Outcome<Template> {
        let added = tokenizer.map_or(&[][..], |tokenizer| &tokenizer.added);
        let controls = Controls::new(added, source);
        let scoped = as_scope(source);
        let load = move || {
            let mut environment = environment();
            environment
                .add_template_owned(NAME, scoped)
                .map_err(|error| Failure::file(located(&error)))?;
            Ok(environment)
        };
        let environment = confined(limits(source.len()), load).unwrap_or_else(|| Err(endless()))?;
        let overran = AtomicBool::new(false);
        Ok(Template { environment, source: source.into(), controls, overran })
    }

    fn render_once(
        &self,
        input: &Input,
        messages: &Json,
        given: &Map<String, Json>,
    ) -> Result<String, Error> {
        let mut environment = self.environment.clone();
        if input.moment.is_some() {
            let moment = input.moment;
            environment
                .add_function("strftime_now", move |format: String| strftime(moment, &format));
        }
        environment.set_fuel(Some(FUEL + FUEL_PER_BYTE * input.size as u64));
        let mut variables: Vec<(&str, Value)> = input
            .ours
            .iter()
            .chain(given)
            .map(|(key, value)| (key.as_str(), template_value(value)))
            .collect();
        variables.push(("messages", template_value(messages)));
        environment.get_template(NAME)?.render(Value::from_pairs(variables))
    }

    /// The prompt, and the offsets of characters that may not be part of a control token.
    fn render(&self, input: &Input) -> Outcome<(String, Vec<usize>)> {
        python::set_marks(Vec::new());
        let plain = self
            .render_once(input, &input.messages, &input.given)
            .map_err(|error| failure_of(&error))?;
        let texts = input.texts();
        for reach in REACHES {
            let marking = Marking::new(&self.controls, &[&texts, &self.source, &plain], reach)
                .ok_or_else(|| Failure::argument("the messages hold every private character"))?;
            let messages = marking.messages(&input.messages);
            let given = Json::Object(input.given.clone());
            let given = marking.value(&given, false);
            let given = given.as_object().cloned().unwrap_or_default();
            if messages == input.messages && given == input.given {
                return Ok((plain, Vec::new()));
            }
            python::set_marks(marking.characters());
            if let Ok(marked) = self.render_once(input, &messages, &given) {
                let (text, literal_at) = marking.undone(&marked);
                if text == plain {
                    return Ok((plain, literal_at));
                }
            }
        }
        Err(Failure::argument(
            "a message spells a special token of this model in a place that the chat template \
             examines; it cannot be told from the template's own",
        ))
    }
}

#[no_mangle]
pub unsafe extern "C" fn optiq_template_new(
    source: Slice<u8>,
    tokenizer: Option<&Handle>,
    out: *mut *mut Arc<Template>,
    error: *mut Buffer<u8>,
) -> Status {
    guard(error, || {
        let source = text(source).map_err(|failure| Failure::file(failure.message))?;
        let template = Template::load(source, tokenizer)?;
        out.write(Box::into_raw(Box::new(Arc::new(template))));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn optiq_template_free(template: *mut Arc<Template>) {
    drop(Box::from_raw(template));
}

#[no_mangle]
pub unsafe extern "C" fn optiq_template_render(
    template: &Arc<Template>,
    messages: Slice<u8>,
    given: Slice<u8>,
    ours: Slice<u8>,
    moment: *const i64,
    out: *mut Buffer<u8>,
    literal_at: *mut Buffer<usize>,
    error: *mut Buffer<u8>,
) -> Status {
    guard(error, || {
        let moment = moment.as_ref().copied();
        let input = Input::parse(text(messages)?, text(given)?, text(ours)?, moment)?;
        if template.overran.load(Relaxed) {
            return Err(endless());
        }
        let shared = template.clone();
        let (prompt, literals) = confined(limits(input.size), move || shared.render(&input))
            .unwrap_or_else(|| {
                template.overran.store(true, Relaxed);
                Err(endless())
            })?;
        out.write(Buffer::new(prompt.into_bytes()));
        literal_at.write(Buffer::new(literals));
        Ok(())
    })
}
