//! Jinja as transformers sets it up, where minijinja or Jinja2's defaults differ: what
//! values print as, filters and tests that follow Python, and its two functions.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use crate::methods::{self, Side};
use crate::python;

/// What `raise_exception` was called with, told apart from errors of other kinds.
#[derive(Debug)]
pub struct Raised(pub String);

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
pub fn strftime(moment: Option<i64>, format: &str) -> Result<String, Error> {
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

/// The environment that transformers renders templates in.
pub fn environment() -> Environment<'static> {
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
