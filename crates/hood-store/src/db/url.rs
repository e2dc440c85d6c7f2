//! Where a PostgreSQL database is. It may hold a password, which is never shown.

use std::fmt;
use std::str::FromStr as _;

use sqlx::postgres::PgConnectOptions;

/// `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=/path`.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

#[derive(Debug, thiserror::Error)]
#[error("not a database's address as in postgres://user@host:5432/database: {reason}")]
pub struct UrlError {
    reason: String,
}

impl DatabaseUrl {
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let refuse = |reason: &str| Err(UrlError { reason: reason.to_owned() });
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return refuse("it does not begin with postgres://");
        }
        match PgConnectOptions::from_str(text) {
            Ok(options) if options.get_database().is_none_or(str::is_empty) => refuse("it names no database"),
            Ok(_) => Ok(Self(text.to_owned())),
            // What the parser says may hold a piece of a password.
            Err(_) => refuse("it cannot be read"),
        }
    }

    pub(crate) fn options(&self) -> Result<PgConnectOptions, sqlx::Error> {
        PgConnectOptions::from_str(&self.0)
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(options) = self.options() else { return f.write_str("postgres://…") };
        let database = options.get_database().unwrap_or_default();
        write!(f, "postgres://{}:{}/{database}", options.get_host(), options.get_port())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let url =
            DatabaseUrl::parse("postgres://me:s3cret@db.internal:5433/hood?sslmode=disable").expect("is one");
        for shown in [url.to_string(), format!("{url:?}")] {
            assert!(shown.contains("db.internal:5433/hood") && !shown.contains("s3cret"), "{shown}");
        }
        let wrong = DatabaseUrl::parse("postgres://me:s3cret@db:notaport/hood").expect_err("is none");
        assert!(!wrong.to_string().contains("s3cret"), "{wrong}");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for wrong in ["", "mysql://a/b", "postgres://host", "host:5432/db"] {
            assert!(DatabaseUrl::parse(wrong).is_err(), "{wrong}");
        }
    }
}
