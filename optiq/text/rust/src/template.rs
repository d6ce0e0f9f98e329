//! Chat templates in the dialect of transformers, over minijinja.
//!
//! A template comes with a model and so from a stranger. It runs on fuel, which pays for
//! steps, bytes and items alike, and confined: the deepest value that the fuel can build
//! is still freed on that stack, and what minijinja does without asking for fuel
//! (printing or hashing a list that holds itself many times over) is cut off.

use std::error::Error as _;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use serde_json::{Map, Value as Json};

use crate::boundary::{guard, text, Buffer, Failure, Outcome, Slice, Status};
use crate::confined::{confined, Limits};
use crate::generation_tag::as_scope;
use crate::methods::{self, Side};
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

/// What `raise_exception` was called with, told apart from errors of other kinds.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// datetime.now().strftime(format), or of the given moment, in local time.
fn strftime(moment: Option<i64>, format: &str) -> Result<String, Error> {
    let refused =
        || Error::new(ErrorKind::InvalidOperation, "strftime_now: the format is not valid");
    let format = std::ffi::CString::new(format).map_err(|_| refused())?;
    let mut buffer = [0u8; 1024];
    // SAFETY: every pointer is to a live local; strftime writes at most `buffer.len()`.
    let size = unsafe {
        let seconds: libc::time_t = match moment {
            Some(seconds) => seconds as libc::time_t,
            None => libc::time(std::ptr::null_mut()),
        };
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&seconds, &mut parts).is_null() {
            return Err(refused());
        }
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), format.as_ptr(), &parts)
    };
    Ok(String::from_utf8_lossy(&buffer[..size]).into_owned())
}

fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Map, Seq, String, Undefined};
    matches!(value.kind(), Map | Seq | String | Undefined)
}

/// Python's int(text), or int(float(text)), or the default.
fn int(value: &Value, default: Option<Value>) -> Value {
    let default = default.unwrap_or_else(|| Value::from(0));
    let text = match value.as_str() {
        Some(text) => text.trim_matches(methods::is_space).replace('_', ""),
        None if value.is_integer() => return value.clone(),
        None => match number(value) {
            Some(number) => number.to_string(),
            None => return default,
        },
    };
    if let Ok(whole) = text.parse::<i64>() {
        return Value::from(whole);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Value::from(number.trunc() as i64),
        _ => default,
    }
}

fn float(value: &Value, default: Option<Value>) -> Value {
    let parsed = match value.as_str() {
        Some(text) => text.trim_matches(methods::is_space).parse::<f64>().ok(),
        None => number(value),
    };
    parsed.map_or_else(|| default.unwrap_or_else(|| Value::from(0.0)), Value::from)
}

fn number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn trim(state: &State, value: &Value, characters: Option<String>) -> Result<String, Error> {
    let text = python::text_of(state, value)?;
    Ok(methods::strip(&text, characters.as_deref(), Side::Both).into())
}

fn join(
    state: &State,
    values: &Value,
    separator: Option<Value>,
    options: Kwargs,
) -> Result<String, Error> {
    let separator = separator
        .or(options.get("d")?)
        .map_or(Ok(String::new()), |separator| python::text_of(state, &separator))?;
    let Some(attribute) = options.get::<Option<Value>>("attribute")? else {
        options.assert_all_used()?;
        return methods::join(state, &separator, values);
    };
    options.assert_all_used()?;
    let items: Result<Vec<Value>, Error> =
        values.try_iter()?.checked().map(|item| item?.get_item(&attribute)).collect();
    methods::join(state, &separator, &Value::from(items?))
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.unwrap_or_default());
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(methods::call);
    env.set_formatter(|out, state, value| {
        let text = python::text_of(state, value)?;
        out.write_str(&text).map_err(Error::from)
    });
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", |format: String| strftime(None, &format));
    env.add_function("cycler", |items: Rest<Value>| minijinja_contrib::globals::cycler(items.0));
    env.add_function("joiner", minijinja_contrib::globals::joiner);
    // Jinja2 has no such name; a template may ask whether its user gave one.
    env.remove_global("debug");
    env.add_filter("tojson", python::tojson);
    env.add_filter("string", |state: &State, value: &Value| python::text_of(state, value));
    env.add_filter("trim", trim);
    env.add_filter("join", join);
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_test("sequence", |value: &Value| is_sequence(value));
    env.add_test("iterable", |value: &Value| {
        is_sequence(value) || value.kind() == ValueKind::Iterable
    });
    env
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

/// Older and other names of a message's reasoning, as transformers 5 fills them in.
fn with_reasoning(message: &Json) -> Json {
    let Some(fields) = message.as_object() else {
        return message.clone();
    };
    let names = ["reasoning_content", "thinking", "reasoning"];
    let given = names.iter().filter_map(|name| fields.get(*name)).find(|value| !value.is_null());
    let Some(reasoning) = given.cloned() else {
        return message.clone();
    };
    let mut filled = Map::new();
    filled.insert("thinking".into(), reasoning.clone());
    filled.extend(fields.iter().map(|(key, value)| (key.clone(), value.clone())));
    filled.insert("reasoning_content".into(), reasoning);
    Json::Object(filled)
}

/// What a template is rendered from.
struct Input {
    messages: Json,
    /// Tools, documents and the request's own variables.
    given: Map<String, Json>,
    /// Special tokens of the tokenizer and other variables of ours.
    ours: Map<String, Json>,
    size: usize,
    moment: Option<i64>,
}

impl Input {
    fn parse(messages: &str, given: &str, ours: &str, moment: Option<i64>) -> Outcome<Input> {
        let bad = |what: &str, error: serde_json::Error| {
            Failure::argument(format!("{what} is not valid JSON: {error}"))
        };
        let size = messages.len() + given.len();
        let messages: Json =
            serde_json::from_str(messages).map_err(|error| bad("messages", error))?;
        let Some(messages) = messages.as_array() else {
            return Err(Failure::argument("messages must be a list"));
        };
        if let Some(index) = messages.iter().position(|message| !message.is_object()) {
            return Err(Failure::argument(format!("messages[{index}] must be an object")));
        }
        let messages = messages.iter().map(with_reasoning).collect();
        let given = serde_json::from_str(given).map_err(|error| bad("options", error))?;
        let ours = serde_json::from_str(ours).map_err(|error| bad("options", error))?;
        Ok(Input { messages, given, ours, size, moment })
    }

    fn texts(&self) -> String {
        let mut texts = String::new();
        gather(&self.messages, &mut texts);
        self.given.iter().chain(&self.ours).for_each(|(key, value)| {
            texts += key;
            gather(value, &mut texts);
        });
        texts
    }
}

fn gather(value: &Json, texts: &mut String) {
    match value {
        Json::String(text) => *texts += text,
        Json::Array(items) => items.iter().for_each(|item| gather(item, texts)),
        Json::Object(map) => map.iter().for_each(|(key, item)| {
            *texts += key;
            gather(item, texts);
        }),
        _ => {}
    }
}

fn template_value(value: &Json) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (_, Some(number)) => Value::from(number),
            _ => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(template_value).collect::<Vec<_>>()),
        Json::Object(map) => {
            Value::from_pairs(map.iter().map(|(key, item)| (key.as_str(), template_value(item))))
        }
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
