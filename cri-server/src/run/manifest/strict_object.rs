//! Reads a manifest field by field, keeps the path of each, and reports every field that was not read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;

use serde_json::{Map, Value};

use super::refused_fields::{Problems, kind, not_supported, unknown};

/// A mapping with its path in the manifest.
pub struct Object<'a> {
    path: String,
    fields: &'a Map<String, Value>,
    /// Names that the reader of this mapping has read.
    known: RefCell<BTreeSet<String>>,
    problems: &'a Problems,
}

impl<'a> Object<'a> {
    /// A whole document.
    pub fn root(value: &'a Value, problems: &'a Problems) -> Option<Self> {
        Self::at(String::new(), value, problems)
    }

    fn at(path: String, value: &'a Value, problems: &'a Problems) -> Option<Self> {
        match value {
            Value::Object(fields) => Some(Self { path, fields, known: RefCell::default(), problems }),
            other => {
                problems.add(&path, format_args!("expected a mapping, found {}", kind(other)));
                None
            }
        }
    }

    /// The path of one of its fields; its own path for an empty name.
    pub fn path(&self, name: &str) -> String {
        match (self.path.as_str(), name) {
            ("", name) => name.to_owned(),
            (path, "") => path.to_owned(),
            (path, name) => format!("{path}.{name}"),
        }
    }

    /// Reports that a field's value is refused.
    pub fn refuse(&self, name: &str, message: impl Display) {
        self.problems.add(&self.path(name), message);
    }

    /// A field's value; null counts as missing, as everywhere in Kubernetes.
    fn take(&self, name: &str) -> Option<&'a Value> {
        if !self.known.borrow().contains(name) {
            self.known.borrow_mut().insert(name.to_owned());
        }
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn typed<T>(&self, name: &str, wanted: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.take(name)?;
        let read = read(value);
        if read.is_none() {
            // As in YAML 1.1, which Kubernetes uses, N, yes, on and off are booleans.
            let quotes = wanted == "a text" && matches!(value, Value::Bool(_) | Value::Number(_));
            let hint = if quotes { ": quotes make it one" } else { "" };
            self.refuse(name, format_args!("expected {wanted}, found {}{hint}", kind(value)));
        }
        read
    }

    /// A text.
    pub fn string(&self, name: &str) -> Option<String> {
        self.typed(name, "a text", |v| v.as_str().map(str::to_owned))
    }

    /// A text that is required and not empty.
    pub fn required(&self, name: &str) -> Option<String> {
        if self.fields.get(name).is_none_or(Value::is_null) {
            self.take(name);
            self.refuse(name, "is required");
            return None;
        }
        let text = self.string(name)?;
        if text.is_empty() {
            self.refuse(name, "must not be empty");
            return None;
        }
        Some(text)
    }

    /// True or false.
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.typed(name, "true or false", Value::as_bool)
    }

    /// A whole number in the range of the type.
    pub fn number<T: TryFrom<i64>>(&self, name: &str) -> Option<T> {
        let number = self.typed(name, "a whole number", Value::as_i64)?;
        let fits = T::try_from(number).ok();
        if fits.is_none() {
            self.refuse(name, format_args!("{number} is out of range"));
        }
        fits
    }

    /// A quantity: a number, or a text such as `100m` or `64Mi`.
    pub fn quantity(&self, name: &str) -> Option<String> {
        self.typed(name, "a quantity", |v| match v {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
    }

    /// One of several words.
    pub fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(name)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.refuse(name, format_args!("{text:?} is none of {}", all.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    /// A mapping.
    pub fn object(&self, name: &str) -> Option<Object<'a>> {
        Self::at(self.path(name), self.take(name)?, self.problems)
    }

    /// A list; empty if it is missing.
    pub fn list(&self, name: &str) -> Vec<Item<'a>> {
        let items = self.typed(name, "a list", Value::as_array);
        let item = |(index, value)| Item {
            path: format!("{}[{index}]", self.path(name)),
            value,
            problems: self.problems,
        };
        items.into_iter().flatten().enumerate().map(item).collect()
    }

    /// A list of mappings.
    pub fn objects(&self, name: &str) -> Vec<Object<'a>> {
        self.list(name).into_iter().filter_map(Item::object).collect()
    }

    /// A list of texts.
    pub fn strings(&self, name: &str) -> Option<Vec<String>> {
        self.take(name)?;
        Some(self.list(name).iter().filter_map(Item::string).collect())
    }

    /// A list of whole numbers.
    pub fn numbers(&self, name: &str) -> Vec<i64> {
        self.list(name).iter().filter_map(Item::number).collect()
    }

    /// The unchanged value, for callers that parse it themselves.
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.take(name)
    }

    /// A mapping of texts to texts.
    pub fn string_map(&self, name: &str) -> super::Map {
        let Some(object) = self.object(name) else { return super::Map::new() };
        object.fields.keys().filter_map(|key| Some((key.clone(), object.string(key)?))).collect()
    }

    /// All keys, for mappings whose keys are data.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.fields.keys().map(String::as_str)
    }

    /// Whether the field exists and is not empty.
    pub fn has(&self, name: &str) -> bool {
        self.take(name).is_some_and(|value| !says_nothing(value))
    }

    /// Refuses fields of Kubernetes that are not supported, unless they are empty: tools write `{}` and `[]`.
    pub fn unsupported(&self, names: &[&str]) {
        for name in names.iter().filter(|name| self.has(name)) {
            self.refuse(name, not_supported());
        }
    }

    /// Accepts fields that have no effect here.
    pub fn without_effect(&self, names: &[&str]) {
        for name in names.iter().filter(|name| self.has(name)) {
            self.problems.add_without_effect(self.path(name));
        }
    }

    /// Refuses every field that was not read. Must be called last, on every mapping.
    pub fn finish(&self) {
        let known = self.known.borrow();
        for name in self.fields.keys().filter(|name| !known.contains(*name)) {
            self.refuse(name, unknown(name, known.iter().map(String::as_str)));
        }
    }
}

/// An entry of a list.
pub struct Item<'a> {
    path: String,
    value: &'a Value,
    problems: &'a Problems,
}

impl<'a> Item<'a> {
    /// The entry as a mapping.
    pub fn object(self) -> Option<Object<'a>> {
        Object::at(self.path, self.value, self.problems)
    }

    /// The entry as a text.
    pub fn string(&self) -> Option<String> {
        let text = self.value.as_str();
        if text.is_none() {
            self.problems.add(&self.path, format_args!("expected a text, found {}", kind(self.value)));
        }
        text.map(str::to_owned)
    }

    /// The entry as a whole number.
    pub fn number(&self) -> Option<i64> {
        let number = self.value.as_i64();
        if number.is_none() {
            self.problems
                .add(&self.path, format_args!("expected a whole number, found {}", kind(self.value)));
        }
        number
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(says_nothing),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
