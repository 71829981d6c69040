//! The words of `crisp run` and `crisp create` after the options: an image with its command, or a manifest.

/// No word after the first one is an option of `crisp`.
#[derive(Debug, clap::Subcommand)]
pub enum Words {
    #[command(external_subcommand)]
    All(Vec<String>),
}

impl Words {
    /// All of them; the command line requires at least one.
    pub fn all(&self) -> &[String] {
        let Self::All(words) = self;
        words
    }

    /// The first one and those after it.
    pub fn split(self) -> (String, Vec<String>) {
        let Self::All(mut words) = self;
        let rest = words.split_off(1);
        (words.remove(0), rest)
    }
}
