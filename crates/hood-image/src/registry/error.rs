use crate::error::ImageError;

/// Why an image did not come from a registry, or did not get there.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("`{text}` names no image: {problem}; write it as registry.example/team/image:tag")]
    Reference { text: String, problem: String },
    #[error(
        "{host} refuses {}",
        if *known { "these credentials, or they may not do this" } else { "to answer without credentials" }
    )]
    Denied { host: String, known: bool },
    #[error("the registry has no {reference}")]
    Missing { reference: String },
    #[error("the registry would not {step}: status {status}, {said}")]
    Status { step: &'static str, status: u16, said: String },
    #[error("what the registry answers cannot be used: it {problem}")]
    Answer { problem: String },
    #[error("cannot {step}")]
    Http {
        step: &'static str,
        #[source]
        source: reqwest::Error,
    },
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("cannot {step}")]
    Io {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
}

impl RegistryError {
    pub(super) fn http(step: &'static str) -> impl FnOnce(reqwest::Error) -> Self {
        // Addresses that registries lead to hold keys of their own.
        move |source| Self::Http { step, source: source.without_url() }
    }

    pub(super) fn io(step: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { step, source }
    }

    pub(super) fn answer(problem: impl Into<String>) -> Self {
        Self::Answer { problem: problem.into() }
    }
}
