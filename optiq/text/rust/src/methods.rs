//! The methods of Python's strings that templates call, with Python's whitespace, and
//! the growing ones refused before they outgrow their fuel. The rest is pycompat's.

use minijinja::value::{from_args, Kwargs, Rest, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use crate::python::text_of;

/// `str.isspace` in Python; Unicode's White_Space and four separators of ASCII.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn ends_line(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// Pays for `size` bytes before they are made.
fn afford(state: &State, size: Option<usize>) -> Result<(), Error> {
    let size = size.ok_or_else(|| Error::from(ErrorKind::OutOfFuel))?;
    state.consume_fuel(size as u64 / 64)
}

fn split_spaces(text: &str, limit: Option<usize>) -> Vec<Value> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if limit == Some(parts.len()) {
            parts.push(Value::from(rest));
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(Value::from(&rest[..end]));
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

fn split(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (given, options): (Rest<Value>, Kwargs) = from_args(args)?;
    let separator = match given.first() {
        Some(separator) => Some(separator.clone()),
        None => options.get::<Option<Value>>("sep")?,
    };
    let limit = match given.get(1) {
        Some(limit) => Some(limit.clone()),
        None => options.get::<Option<Value>>("maxsplit")?,
    };
    options.assert_all_used()?;
    let limit = limit.map(i64::try_from).transpose()?.and_then(|n| usize::try_from(n).ok());
    let separator = separator.filter(|separator| !separator.is_none());
    let Some(separator) = separator else {
        return match (from_right, limit) {
            (true, Some(limit)) => Ok(Value::from(rsplit_spaces(text, limit))),
            _ => Ok(Value::from(split_spaces(text, limit))),
        };
    };
    let separator = separator
        .as_str()
        .filter(|separator| !separator.is_empty())
        .ok_or_else(|| refused("split takes a separator that is not empty"))?;
    let pieces = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
    let mut parts: Vec<Value> = if from_right {
        text.rsplitn(pieces, separator).map(Value::from).collect()
    } else {
        text.splitn(pieces, separator).map(Value::from).collect()
    };
    if from_right {
        parts.reverse();
    }
    Ok(Value::from(parts))
}

fn rsplit_spaces(text: &str, limit: usize) -> Vec<Value> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        if limit == parts.len() {
            parts.push(Value::from(rest));
            break;
        }
        let begin = rest.char_indices().rev().find(|(_, c)| is_space(*c));
        let begin = begin.map_or(0, |(at, c)| at + c.len_utf8());
        parts.push(Value::from(&rest[begin..]));
        rest = rest[..begin].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

fn split_lines(text: &str, keep_ends: bool) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let line = rest.find(ends_line).unwrap_or(rest.len());
        let after = &rest[line..];
        let end = if after.starts_with("\r\n") {
            2
        } else {
            after.chars().next().map_or(0, char::len_utf8)
        };
        lines.push(Value::from(&rest[..line + if keep_ends { end } else { 0 }]));
        rest = &rest[line + end..];
    }
    lines
}

fn refused(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_string())
}

#[derive(Clone, Copy, PartialEq)]
pub enum Side {
    Left,
    Right,
    Both,
}

pub fn strip<'a>(text: &'a str, characters: Option<&str>, side: Side) -> &'a str {
    let stripped = |c: char| characters.map_or_else(|| is_space(c), |set| set.contains(c));
    let text = if side == Side::Right { text } else { text.trim_start_matches(stripped) };
    if side == Side::Left {
        text
    } else {
        text.trim_end_matches(stripped)
    }
}

fn stripped(text: &str, args: &[Value], side: Side) -> Result<Value, Error> {
    let (characters,): (Option<Value>,) = from_args(args)?;
    let characters = characters.filter(|set| !set.is_none());
    Ok(Value::from(strip(text, characters.as_ref().and_then(Value::as_str), side)))
}

fn parted(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(refused("partition takes a separator that is not empty"));
    }
    let found = if from_right { text.rfind(separator) } else { text.find(separator) };
    let (before, middle, after) = match found {
        Some(at) => (&text[..at], separator, &text[at + separator.len()..]),
        None if from_right => ("", "", text),
        None => (text, "", ""),
    };
    Ok(Value::from(Tuple::from([before.into(), middle.into(), after.into()])))
}

/// The printed items of a list with a separator between them.
pub fn join(state: &State, separator: &str, values: &Value) -> Result<String, Error> {
    let mut joined = String::new();
    for (index, value) in values.try_iter()?.checked().enumerate() {
        let text = text_of(state, &value?)?;
        afford(state, Some(text.len() + separator.len() + 64))?;
        if index > 0 {
            joined += separator;
        }
        joined += &text;
    }
    Ok(joined)
}

fn replace(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let found = text.matches(old).take(count).count();
    afford(state, found.checked_mul(new.len()).and_then(|size| size.checked_add(text.len())))?;
    Ok(Value::from(text.replacen(old, new, count)))
}

fn of_string(
    state: &State,
    text: &str,
    name: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    afford(state, Some(text.len()))?;
    Ok(Some(match name {
        "strip" => stripped(text, args, Side::Both)?,
        "lstrip" => stripped(text, args, Side::Left)?,
        "rstrip" => stripped(text, args, Side::Right)?,
        "split" => split(text, args, false)?,
        "rsplit" => split(text, args, true)?,
        "partition" => parted(text, args, false)?,
        "rpartition" => parted(text, args, true)?,
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            Value::from(split_lines(text, keep_ends.unwrap_or(false)))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "isspace" => Value::from(!text.is_empty() && text.chars().all(is_space)),
        "replace" => replace(state, text, args)?,
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            Value::from(join(state, text, values)?)
        }
        // A width of many digits in a format would be padded before it is paid for.
        "format" if text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 4) => {
            return Err(refused("a width or precision in format is too large"));
        }
        _ => return Ok(None),
    }))
}

pub fn call(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if value.kind() == ValueKind::String {
        if let Some(result) = of_string(state, value.as_str().unwrap_or(""), name, args)? {
            return Ok(result);
        }
    }
    pycompat::unknown_method_callback(state, value, name, args)
}
