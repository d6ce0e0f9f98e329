//! Values printed as Python prints them: `str`, `repr`, and `json.dumps`.
//!
//! Characters that stand for marked ones (see provenance.rs) are printed as they are
//! where Python would escape a private character, since what they stand for is ASCII.

use std::cell::RefCell;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

thread_local! {
    static MARKS: RefCell<Vec<char>> = const { RefCell::new(Vec::new()) };
}

pub fn set_marks(marks: Vec<char>) {
    MARKS.with_borrow_mut(|all| *all = marks);
}

fn is_mark(c: char) -> bool {
    MARKS.with_borrow(|all| all.contains(&c))
}

/// Python's own limit on nesting is of this size.
const DEPTH_LIMIT: usize = 900;
const INDENT_LIMIT: usize = 64;

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// `repr(float)`: the shortest digits that read back, an exponent outside of
/// 1e-4 <= |x| < 1e16.
pub fn float_text(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let digits = format!("{x:?}");
    match digits.split_once('e') {
        // Rust writes 1e-7 and 1e16, Python 1e-07 and 1e+16.
        Some((mantissa, exponent)) => {
            let value: i32 = exponent.parse().unwrap_or(0);
            format!("{mantissa}e{value:+03}")
        }
        None => digits,
    }
}

fn is_float(value: &Value) -> bool {
    value.kind() == ValueKind::Number && !value.is_integer()
}

fn is_printable(c: char) -> bool {
    // After a letter, `escape_debug` leaves alone what is printable, combining marks too.
    c.is_ascii_graphic() || c == ' ' || is_mark(c) || format!("a{c}").escape_debug().count() == 2
}

fn write_string_repr(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => *out += "\\\\",
            '\n' => *out += "\\n",
            '\r' => *out += "\\r",
            '\t' => *out += "\\t",
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) < 0x100 => *out += &format!("\\x{:02x}", u32::from(c)),
            c if u32::from(c) < 0x10000 => *out += &format!("\\u{:04x}", u32::from(c)),
            c => *out += &format!("\\U{:08x}", u32::from(c)),
        }
    }
    out.push(quote);
}

/// A writer that pays fuel for what it visits and writes, so that a small value that
/// prints large ends in an error.
struct Printer<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    out: String,
    paid: usize,
}

impl<'a, 'b, 'c> Printer<'a, 'b, 'c> {
    fn new(state: &'a State<'b, 'c>) -> Self {
        Printer { state, out: String::new(), paid: 0 }
    }

    fn pay(&mut self, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_LIMIT {
            return Err(refused("a value is nested too deeply to be printed"));
        }
        let written = (self.out.len() - self.paid) / 64;
        self.paid += written * 64;
        self.state.consume_fuel(1 + written as u64)
    }

    fn repr(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.pay(depth)?;
        match value.kind() {
            ValueKind::String => write_string_repr(&mut self.out, value.as_str().unwrap_or("")),
            ValueKind::Undefined => self.out += "Undefined",
            ValueKind::Number if is_float(value) => {
                self.out += &float_text(f64::try_from(value.clone())?);
            }
            ValueKind::Map => {
                self.out.push('{');
                for (index, key) in value.try_iter()?.checked().enumerate() {
                    let key = key?;
                    self.separator(index, ", ");
                    self.repr(&key, depth + 1)?;
                    self.out += ": ";
                    self.repr(&value.get_item(&key)?, depth + 1)?;
                }
                self.out.push('}');
            }
            ValueKind::Seq => {
                let (open, close) = if value.is_tuple() { ("(", ")") } else { ("[", "]") };
                self.out += open;
                for (index, item) in value.try_iter()?.checked().enumerate() {
                    self.separator(index, ", ");
                    self.repr(&item?, depth + 1)?;
                }
                if value.is_tuple() && value.len() == Some(1) {
                    self.out.push(',');
                }
                self.out += close;
            }
            _ => self.out += &value.to_string(),
        }
        Ok(())
    }

    fn separator(&mut self, index: usize, text: &str) {
        if index > 0 {
            self.out += text;
        }
    }

    fn json(&mut self, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
        self.pay(depth)?;
        match value.kind() {
            ValueKind::None => self.out += "null",
            ValueKind::Bool => self.out += if value.is_true() { "true" } else { "false" },
            ValueKind::Number if is_float(value) => {
                self.out += &json_float(f64::try_from(value.clone())?);
            }
            ValueKind::Number => self.out += &value.to_string(),
            ValueKind::String => self.json_string(value.as_str().unwrap_or(""), style),
            ValueKind::Seq | ValueKind::Iterable => {
                self.out.push('[');
                let mut count = 0;
                for item in value.try_iter()?.checked() {
                    self.json_item(count, style, depth + 1);
                    self.json(&item?, style, depth + 1)?;
                    count += 1;
                }
                self.json_close(count, style, depth);
                self.out.push(']');
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    pairs.push((json_key(&key)?, value.get_item(&key)?));
                }
                if style.sort_keys {
                    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.out.push('{');
                for (index, (key, item)) in pairs.iter().enumerate() {
                    self.json_item(index, style, depth + 1);
                    self.json_string(key, style);
                    self.out += &style.colon;
                    self.json(item, style, depth + 1)?;
                }
                self.json_close(pairs.len(), style, depth);
                self.out.push('}');
            }
            kind => return Err(refused(format!("a value of kind {kind} is not JSON"))),
        }
        Ok(())
    }

    fn json_item(&mut self, index: usize, style: &Style, depth: usize) {
        self.separator(index, &style.comma);
        self.json_line(style, depth);
    }

    fn json_close(&mut self, count: usize, style: &Style, depth: usize) {
        if count > 0 {
            self.json_line(style, depth);
        }
    }

    fn json_line(&mut self, style: &Style, depth: usize) {
        if let Some(indent) = &style.indent {
            self.out.push('\n');
            self.out += &indent.repeat(depth);
        }
    }

    fn json_string(&mut self, text: &str, style: &Style) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out += "\\\"",
                '\\' => self.out += "\\\\",
                '\n' => self.out += "\\n",
                '\r' => self.out += "\\r",
                '\t' => self.out += "\\t",
                '\u{8}' => self.out += "\\b",
                '\u{c}' => self.out += "\\f",
                c if c < ' ' => self.out += &format!("\\u{:04x}", u32::from(c)),
                c if style.ensure_ascii && (c > '~') && !is_mark(c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out += &format!("\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn json_float(x: f64) -> String {
    if x.is_nan() {
        "NaN".into()
    } else if x.is_infinite() {
        if x > 0.0 {
            "Infinity".into()
        } else {
            "-Infinity".into()
        }
    } else {
        float_text(x)
    }
}

fn json_key(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or("").into()),
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number if is_float(key) => Ok(json_float(f64::try_from(key.clone())?)),
        ValueKind::Number => Ok(key.to_string()),
        kind => Err(refused(format!("keys of JSON are strings, not of kind {kind}"))),
    }
}

struct Style {
    comma: String,
    colon: String,
    indent: Option<String>,
    ensure_ascii: bool,
    sort_keys: bool,
}

/// The `tojson` filter of transformers: json.dumps(x, ensure_ascii=False, ...).
pub fn tojson(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let flag = |name: &str| -> Result<bool, Error> {
        Ok(options.get::<Option<Value>>(name)?.is_some_and(|value| value.is_true()))
    };
    let indent: Option<Value> = options.get("indent")?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_string),
        Some(count) => Some(" ".repeat(i64::try_from(count)?.max(0) as usize & 0xffff)),
    };
    if indent.as_ref().is_some_and(|indent| indent.len() > INDENT_LIMIT) {
        return Err(refused(format!("tojson indents by at most {INDENT_LIMIT}")));
    }
    let separators: Option<Value> = options.get("separators")?;
    let (comma, colon) = match separators.filter(|pair| !pair.is_none()) {
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
        Some(pair) => {
            (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string())
        }
    };
    let style = Style {
        comma,
        colon,
        indent,
        ensure_ascii: flag("ensure_ascii")?,
        sort_keys: flag("sort_keys")?,
    };
    options.assert_all_used()?;
    let mut printer = Printer::new(state);
    printer.json(value, &style, 0)?;
    Ok(printer.out)
}

/// `str(value)`; an undefined value is the empty string, as in Jinja.
pub fn text_of(state: &State, value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or("").into()),
        ValueKind::Undefined => Ok(String::new()),
        _ => {
            let mut printer = Printer::new(state);
            printer.repr(value, 0)?;
            Ok(printer.out)
        }
    }
}
