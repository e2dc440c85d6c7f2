//! Black box: where a client may be told to go, and what becomes of it if nobody is there.

use std::time::Duration;

use hood_client::{Client, Error, Retry, Token};

#[test]
fn only_plain_addresses_are_taken() {
    for good in ["http://127.0.0.1:7470", "http://[::1]:7470/", "http://hood.example/prefix"] {
        assert!(Client::builder(good).build().is_ok(), "{good}");
    }
    for bad in [
        "",
        "127.0.0.1:7470",
        "localhost:7470",
        "https://x",
        "ftp://x",
        "http://u:p@x",
        "http://x?y",
        "http://x#y",
    ] {
        assert!(matches!(Client::builder(bad).build(), Err(Error::Address { .. })), "{bad}");
    }
}

#[test]
fn a_token_is_never_shown_and_never_splits_a_header() {
    let token = Token::new("fh_secret\n");
    let builder = Client::builder("http://127.0.0.1:1").token(token.clone());
    assert!(!format!("{token:?} {builder:?}").contains("secret"));
    assert!(!format!("{:?}", builder.build().expect("a client")).contains("secret"));
    let split = Client::builder("http://127.0.0.1:1").token(Token::new("a\r\nx: y"));
    assert!(matches!(split.build(), Err(Error::Token)));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_for_as_long_as_told() {
    // Bound and dropped: nothing listens there now.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let tries = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&tries);
    let retry = Retry { unreachable: Duration::from_millis(20), ..crate::fake::RETRY };
    let client = Client::builder(&address)
        .retry(retry)
        .on_pause(move |_| _ = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        .build()
        .expect("a client");
    let error = client.version().await.expect_err("nobody there");
    assert!(matches!(&error, Error::Unreachable { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("cannot reach the server at {address}/"));
    assert!(tries.load(std::sync::atomic::Ordering::Relaxed) >= 5);
}
