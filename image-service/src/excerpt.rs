//! Texts from outside in errors: an image or a registry may write megabytes, and an error goes to kubelet, to
//! the status of a pod, to the journal of operations and to the log.

/// Characters of an [`excerpt`].
const LENGTH: usize = 300;

/// The begin of a text.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(excerpt("short"), "short");
        assert_eq!(excerpt(&"é".repeat(LENGTH)), "é".repeat(LENGTH));
        assert_eq!(excerpt(&"é".repeat(1_000_000)), format!("{}…", "é".repeat(LENGTH)));
    }
}
