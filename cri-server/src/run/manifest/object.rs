//! Reads a manifest field by field, keeps the path of each, and reports every field that was not read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;

use serde_json::{Map, Value};

use super::unsupported_fields;

/// What is wrong with a manifest, in the order in which it was found.
#[derive(Default)]
pub struct Problems(RefCell<Vec<String>>);

impl Problems {
    /// Notes one.
    pub fn add(&self, path: &str, message: impl Display) {
        let path = if path.is_empty() { "the manifest" } else { path };
        self.0.borrow_mut().push(format!("{path}: {message}"));
    }

    /// All of them.
    pub fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

/// A mapping, at a place in the manifest.
pub struct Object<'a> {
    path: String,
    fields: &'a Map<String, Value>,
    taken: RefCell<BTreeSet<&'a str>>,
    problems: &'a Problems,
}

impl<'a> Object<'a> {
    /// The manifest itself.
    pub fn root(value: &'a Value, problems: &'a Problems) -> Option<Self> {
        Self::at(String::new(), value, problems)
    }

    fn at(path: String, value: &'a Value, problems: &'a Problems) -> Option<Self> {
        match value {
            Value::Object(fields) => Some(Self { path, fields, taken: RefCell::default(), problems }),
            other => {
                problems.add(&path, format_args!("expected a mapping, found {}", kind(other)));
                None
            }
        }
    }

    /// The path of a field of it.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Notes that a field's value is refused.
    pub fn refuse(&self, name: &str, message: impl Display) {
        self.problems.add(&self.path(name), message);
    }

    /// A field's value; null is the same as nothing, as everywhere in Kubernetes.
    fn take(&self, name: &str) -> Option<&'a Value> {
        let (key, value) = self.fields.get_key_value(name)?;
        self.taken.borrow_mut().insert(key);
        (!value.is_null()).then_some(value)
    }

    fn typed<T>(&self, name: &str, wanted: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.take(name)?;
        let read = read(value);
        if read.is_none() {
            self.refuse(name, format_args!("expected {wanted}, found {}", kind(value)));
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

    /// A whole number that fits.
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

    /// A list; nothing is an empty one.
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

    /// A mapping of texts to texts.
    pub fn string_map(&self, name: &str) -> super::Map {
        let Some(object) = self.object(name) else { return super::Map::new() };
        object.fields.keys().filter_map(|key| Some((key.clone(), object.string(key)?))).collect()
    }

    /// All keys, for mappings whose keys are data.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.fields.keys().map(String::as_str)
    }

    /// Refuses every field that was not read. Must be called last, on every mapping.
    pub fn finish(&self) {
        let taken = self.taken.borrow();
        for (name, value) in self.fields {
            if taken.contains(name.as_str()) {
                continue;
            }
            if !unsupported_fields::is_field_of_a_pod(name) {
                self.refuse(name, "is no field of a Kubernetes Pod here");
            // Tools write fields out that say nothing: `status: {}`, `resources: {}`, `creationTimestamp: null`.
            } else if !says_nothing(value) {
                self.refuse(name, "not supported by crisp run yet");
            }
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

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(b) => format!("{b}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) => format!("the text {s:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}
