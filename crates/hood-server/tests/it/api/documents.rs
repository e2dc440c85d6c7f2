//! Black box: the OpenAPI document, its page, and what is committed of both.

use std::path::Path;

use hood_wire::api::Submission;
use reqwest::Method;
use serde_json::Value;

use crate::support::answer::Answer;
use crate::support::app::TestApp;

/// Compares what is committed with what the code makes, or writes it where that is asked for.
fn committed(path: &str, made: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os("FUMEHOOD_UPDATE").is_some() {
        std::fs::write(&file, made).expect("written");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == made,
        "{path} is not what the code makes; update it with\n\n    FUMEHOOD_UPDATE=1 cargo test -p hood-server --test it api::documents\n"
    );
}

#[test]
fn the_committed_openapi_document_is_the_codes() {
    committed("openapi/v1.json", &hood_server::api::openapi());
}

#[test]
fn the_committed_openapi_document_of_dispatchers_is_the_codes() {
    committed("openapi/dispatcher.json", &hood_server::dispatcher::openapi());
}

#[test]
fn the_committed_list_of_errors_is_the_codes() {
    committed("docs/errors.md", &hood_server::api::errors_markdown());
}

#[tokio::test]
async fn the_server_carries_its_document_and_a_page_that_needs_nothing_from_elsewhere() {
    let app = TestApp::start().await;
    let get = async |path: &str| Answer::of(app.bare(Method::GET, path)).await.expect(200);
    let document = get("/openapi/v1.json").await;
    assert_eq!(document.header("content-type"), "application/json");
    assert_eq!(String::from_utf8(document.body).expect("text"), hood_server::api::openapi());
    let page = get("/docs/").await;
    let text = String::from_utf8(page.body.clone()).expect("text");
    assert!(page.header("content-security-policy").contains("script-src 'self'; "));
    assert!(!text.contains("http://") && !text.contains("https://"), "{text}");
    assert!(!text.contains("<script>"), "no script stands in the page: {text}");
    for file in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
        assert!(text.contains(file), "{file}");
        get(&format!("/docs/{file}")).await;
    }
    let initializer = String::from_utf8(get("/docs/swagger-initializer.js").await.body).expect("text");
    assert!(initializer.contains("/openapi/v1.json"), "{initializer}");
    assert!(!initializer.contains("petstore"));
    let errors = String::from_utf8(get("/docs/errors").await.body).expect("text");
    assert!(errors.contains("id=\"queue_full\""));
    for path in ["/", "/docs"] {
        let answer = get(path).await;
        assert!(answer.header("content-type").starts_with("text/html"), "{path} leads to the page");
    }
}

#[test]
fn each_environment_that_comes_along_has_an_example_to_choose() {
    let document: Value = serde_json::from_str(&hood_server::api::openapi()).expect("is JSON");
    let content = &document["paths"]["/v1/evaluations"]["post"]["requestBody"]["content"]["application/json"];
    let examples = content["examples"].as_object().expect("there are examples");
    let declarations = hood_dispatch::environment::builtin().expect("are sound");
    assert_eq!(examples.len(), declarations.len());
    for (example, declaration) in examples.values().zip(declarations) {
        let submission: Submission = serde_json::from_value(example["value"].clone()).expect("is one");
        assert_eq!(submission.environment.as_deref(), Some(&*declaration.name));
        assert_eq!(example["summary"], format!("{}: {}", declaration.name, declaration.description));
    }
}
