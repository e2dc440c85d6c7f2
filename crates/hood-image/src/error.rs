use std::io;

/// Why an image cannot be had. Whatever the reason, nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(
        "this is no image: {found}; give what `docker save` or `podman save` wrote, or an OCI layout as a tar file \
         or a directory"
    )]
    NotAnImage { found: String },
    #[error("{at}: {problem}")]
    Malformed { at: String, problem: String },
    #[error(
        "{what} is not what its digest says: it should be {expected} and is {found}; fetch the image again"
    )]
    WrongDigest { what: String, expected: String, found: String },
    #[error("the image has {found} {what} or more, and at most {maximum} may be")]
    TooLarge { what: &'static str, found: u64, maximum: u64 },
    #[error("{what} cannot be used here: {why}")]
    Unsupported { what: String, why: String },
    #[error("the archive holds several images; name one of them with --image: {}", names.join(", "))]
    Several { names: Vec<String> },
    #[error("the archive holds no image `{wanted}`; it holds {}", names.join(", "))]
    NoSuchImage { wanted: String, names: Vec<String> },
    #[error("cannot {step}")]
    Io {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    pub(crate) fn io(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { step, source }
    }

    pub(crate) fn malformed(at: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Malformed { at: at.into(), problem: problem.into() }
    }
}

/// Errors of ours that pass through `Read` come out again as what they were.
pub(crate) fn unwrap_io(step: &'static str) -> impl FnOnce(io::Error) -> ImageError {
    move |error| match error.downcast::<ImageError>() {
        Ok(ours) => ours,
        Err(error) => ImageError::Io { step, source: error },
    }
}

/// Bytes of an image as text that can be shown: names in it are anybody's.
pub(crate) fn show(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 200;
    let mut text: String =
        String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_MAX)]).escape_default().to_string();
    if bytes.len() > SHOWN_MAX {
        text.push('…');
    }
    text
}
