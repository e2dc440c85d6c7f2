//! Black box: streams over connections that break.

use std::pin::pin;
use std::task::Poll;

use hood_client::{Error, Heard, Stream};

use crate::fake::{Answer, Fake};

async fn output(fake: &Fake) -> Result<String, Error> {
    let mut stream = fake.client().follow_output("ev_1", Stream::Stdout, 2, 0);
    let mut all = Vec::new();
    while let Some(bytes) = stream.next().await? {
        all.extend_from_slice(&bytes);
        assert_eq!(stream.offset(), all.len() as u64);
    }
    Ok(String::from_utf8(all).expect("text"))
}

#[tokio::test]
async fn output_is_taken_up_where_it_broke_without_loss_or_repetition() {
    let fake = Fake::new(vec![
        Answer::Breaks(vec!["one ", "two "]),
        Answer::Breaks(vec![]),
        Answer::Busy { status: 503, retry_after: "0" },
        Answer::Breaks(vec!["three "]),
        Answer::Ends(vec!["four", ""]),
    ])
    .await;
    assert_eq!(output(&fake).await.expect("whole"), "one two three four");
    let at = |offset| format!("GET /v1/evaluations/ev_1/stdout?follow=true&offset={offset}&attempt=2");
    assert_eq!(fake.lines(), [at(0), at(8), at(8), at(8), at(14)]);
}

#[tokio::test]
async fn output_of_what_is_not_there_is_an_error_at_once() {
    let fake = Fake::new(vec![Answer::Empty(404)]).await;
    assert!(output(&fake).await.expect_err("no such").is_not_found());
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test]
async fn a_dropped_wait_for_output_loses_nothing() {
    let fake = Fake::new((0..4).map(|_| Answer::Ends(vec!["a", "b", "c"])).collect()).await;
    let mut stream = fake.client().follow_output("ev_1", Stream::Stderr, 1, 0);
    let mut all = Vec::new();
    // Given up before the answer can have come, and again between the chunks.
    for _ in 0..3 {
        if let Poll::Ready(next) = futures::poll!(pin!(stream.next())) {
            all.extend_from_slice(&next.expect("whole").expect("not the end"));
        }
    }
    while let Some(bytes) = stream.next().await.expect("whole") {
        all.extend_from_slice(&bytes);
        let _ = futures::poll!(pin!(stream.next())).map(|next| {
            let rest = next.expect("whole").unwrap_or_default();
            all.extend_from_slice(&rest);
        });
    }
    assert_eq!(all, b"abc");
}

const SUBMITTED: &str = "id: 1\nevent: submitted\ndata: {\"number\":1,\"type\":\"submitted\",\"at\":\"t\",\"state\":\"queued\"}\n\n";
const LEASED: &str = "id: 2\ndata: {\"number\":2,\"type\":\"attempt_started\",\"at\":\"t\",\
    \"state\":\"provisioning\",\"attempt\":1}\n\n";
const FINISHED: &str = "id: 3\ndata: {\"number\":3,\"type\":\"finished\",\"at\":\"t\",\"state\":\"succeeded\",\
    \"verdict\":\"succeeded\"}\n\n";

async fn numbers(fake: &Fake) -> Result<Vec<u64>, Error> {
    let mut stream = fake.client().follow_events("ev_1", 0);
    let mut numbers = Vec::new();
    while let Some(event) = stream.next().await? {
        numbers.push(event.number);
    }
    Ok(numbers)
}

#[tokio::test]
async fn events_are_taken_up_after_the_last_one_that_was_seen() {
    let fake = Fake::new(vec![
        Answer::Breaks(vec![SUBMITTED, ": keep-alive\n\n", "id: 2\ndata: {\"number\":2,"]),
        // Repeats what was seen, and ends too early.
        Answer::Ends(vec![SUBMITTED, LEASED]),
        Answer::Ends(vec![FINISHED]),
    ])
    .await;
    assert_eq!(numbers(&fake).await.expect("whole"), [1, 2, 3]);
    let asked = fake.asked();
    let last: Vec<_> = asked.iter().map(|asked| asked.header("last-event-id")).collect();
    assert_eq!(last, [None, Some("1"), Some("2")]);
    assert!(asked.iter().all(|asked| asked.header("accept") == Some("text/event-stream")));
}

#[tokio::test]
async fn news_come_between_events_and_what_is_not_known_is_passed_over() {
    const BUILDING: &str = "event: building\ndata: {\"environment\":\"data\",\"progress\":{\"stage\":\"copying\",\
        \"percent\":7,\"files_done\":1,\"files_total\":0,\"bytes_done\":0,\"bytes_total\":0}}\n\n";
    const LATER: &str = "event: of another year\ndata: {\"x\":1}\n\n";
    let answers = || vec![Answer::Ends(vec![SUBMITTED, LEASED, BUILDING, LATER, FINISHED])];
    let mut stream = Fake::new(answers()).await.client().follow_events("ev_1", 0);
    let mut heard = Vec::new();
    while let Some(one) = stream.hear().await.expect("whole") {
        heard.push(match one {
            Heard::Event(event) => event.number.to_string(),
            Heard::Building(news) => format!("{} {:?}", news.environment, news.progress.percent),
        });
    }
    assert_eq!(heard, ["1", "2", "data Some(7)", "3"]);
    assert_eq!(numbers(&Fake::new(answers()).await).await.expect("whole"), [1, 2, 3]);
}

#[tokio::test]
async fn a_reconnect_after_the_last_event_ends_the_stream() {
    let fake = Fake::new(vec![Answer::Empty(204)]).await;
    let mut stream = fake.client().follow_events("ev_1", 3);
    assert_eq!(stream.next().await.expect("an end"), None);
    assert_eq!(stream.next().await.expect("still an end"), None);
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test]
async fn a_gap_in_the_numbers_is_never_passed_over() {
    let fake = Fake::new(vec![Answer::Ends(vec![SUBMITTED, FINISHED])]).await;
    let error = numbers(&fake).await.expect_err("a gap");
    assert_eq!(error.to_string(), "the server broke the protocol: event 3 came after event 1");
}
