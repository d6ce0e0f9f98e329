//! Messages and variables, from JSON to what a template sees.

use minijinja::Value;
use serde_json::{Map, Value as Json};

use crate::boundary::{Failure, Outcome};

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
pub struct Input {
    pub messages: Json,
    /// Tools, documents and the request's own variables.
    pub given: Map<String, Json>,
    /// Special tokens of the tokenizer and other variables of ours.
    pub ours: Map<String, Json>,
    /// Bytes of JSON, on which the limits are sized.
    pub size: usize,
    pub moment: Option<i64>,
}

impl Input {
    pub fn parse(messages: &str, given: &str, ours: &str, moment: Option<i64>) -> Outcome<Input> {
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

    /// All strings, one after another.
    pub fn texts(&self) -> String {
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

pub fn template_value(value: &Json) -> Value {
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
