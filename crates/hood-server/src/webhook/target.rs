//! A URL that deliveries may be sent to, as far as the URL itself tells.

use std::net::IpAddr;

use reqwest::Url;

use super::Rules;

/// As long as browsers and proxies take them.
const URL_BYTES_MAX: usize = 2048;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    url: Url,
    /// In the form that tells one target from another.
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongTarget {
    #[error("is longer than {URL_BYTES_MAX} bytes")]
    Long,
    #[error("is no URL with http:// or https:// and a host")]
    Form,
    #[error("holds a user name or a password; what is sent is signed instead")]
    UserInfo,
    #[error("names the address {address}, which is not connected to: {why}")]
    Refused { address: IpAddr, why: &'static str },
}

impl Target {
    /// A name is not resolved here: what it stands for is checked when something is sent, since by
    /// then it may stand for something else.
    pub fn parse(text: &str, rules: &Rules) -> Result<Self, WrongTarget> {
        if text.len() > URL_BYTES_MAX {
            return Err(WrongTarget::Long);
        }
        // A parser leaves some of them out, and what is kept is the text.
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(WrongTarget::Form);
        }
        let url = Url::parse(text).map_err(|_| WrongTarget::Form)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(WrongTarget::Form);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(WrongTarget::UserInfo);
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(WrongTarget::Form)?;
        // The parser has made dotted decimals of every other way to write an address.
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if let Ok(address) = literal
            && let Some(why) = rules.refusal(address)
        {
            return Err(WrongTarget::Refused { address, why });
        }
        let host = host.to_owned();
        Ok(Self { url, host })
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    pub fn host(&self) -> &str {
        &self.host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, WrongTarget> {
        Target::parse(text, &Rules::default()).map(|target| target.host)
    }

    #[test]
    fn a_url_with_a_host_is_taken() {
        assert_eq!(parse("https://hooks.example.com/a?b=c"), Ok("hooks.example.com".to_owned()));
        assert_eq!(parse("http://HOOKS.example.com:8080"), Ok("hooks.example.com".to_owned()));
        assert_eq!(parse("https://[2606:4700::1]/"), Ok("[2606:4700::1]".to_owned()));
    }

    #[test]
    fn what_else_it_may_be_is_refused() {
        for text in [
            "",
            "hooks",
            "ftp://a/",
            "file:///etc/passwd",
            "gopher://a/",
            "unix:/run/x",
            "http://",
            "http://a/\0",
            "http://a/\r\nb",
            " http://a/",
        ] {
            assert_eq!(parse(text), Err(WrongTarget::Form), "{text}");
        }
        for text in ["http://u@a/", "http://u:p@a/", "http://:p@a/"] {
            assert_eq!(parse(text), Err(WrongTarget::UserInfo), "{text}");
        }
        assert_eq!(parse(&format!("http://a/{}", "x".repeat(2048))), Err(WrongTarget::Long));
        for text in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.0.0.1/",
            "http://0177.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:7f00:1]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://169.254.169.254/",
            "http://0/",
            "http://10.0.0.1:80/",
            "http://%31%32%37.0.0.1/",
            "http://127。0。0。1/",
        ] {
            assert!(matches!(parse(text), Err(WrongTarget::Refused { .. })), "{text}: {:?}", parse(text));
        }
    }
}
