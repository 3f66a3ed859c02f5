//! Nonsense, foreign names and limits: each costs only whoever brings it.

use rand::RngCore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use super::fixture::*;
use crate::config::Config;
use crate::proto;
use crate::serve::{Ports, ServeError};

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_close_their_own_connection_and_nothing_else() {
    let mut fixture = Fixture::start().await;
    let orders = table("orders");
    let mut bystander = fixture.subscribe(proto::Start { from: earliest(), ..Default::default() }).await;
    for length in [1, 24, 100, 10_000, 200_000] {
        let mut noise = vec![0; length];
        rand::rng().fill_bytes(&mut noise);
        noise.extend_from_slice(b"\r\n\r\n");
        for address in [fixture.grpc, fixture.http] {
            Fixture::raw(address, &noise).await;
        }
    }
    // What begins like HTTP/2 and goes on like noise, and plain HTTP on the gRPC port.
    let mut noise = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    noise.extend((0..5000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0]));
    Fixture::raw(fixture.grpc, &noise).await;
    assert!(Fixture::raw(fixture.grpc, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.is_empty());
    fixture.commit_many(&orders, 1).await;
    bystander.events(1).await;
    assert_eq!(fixture.get("/health", "").await.0, 200);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_host_name_is_not_answered() {
    let fixture = Fixture::start_with(|config, _| config.http.allowed_hosts = vec!["streams.example.com".into()]).await;
    let ask = async |host: &str| {
        let request = format!("GET /v1/streams HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        parse(&Fixture::raw(fixture.http, request.as_bytes()).await)
    };
    let (status, text) = ask("evil.example").await;
    assert!(status == 421 && text.contains("http.allowed_hosts") && !text.contains("shop"), "{text}");
    for host in ["streams.example.com", "127.0.0.1:7401", "localhost:9"] {
        let (status, text) = ask(host).await;
        assert!(status == 200 && !text.to_lowercase().contains("access-control"), "{host}: {text}");
    }
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_refuse_with_their_name() {
    let fixture = Fixture::start_with(|config, _| {
        config.grpc.subscribers_max = 1;
        config.http.event_streams_max = 1;
        config.http.connections_max = 2;
    })
    .await;
    let mut only = fixture.subscribe(proto::Start { from: earliest(), ..Default::default() }).await;
    only.progress_to(0).await;
    let refused = fixture.client().await.subscribe(tokio_stream::iter([])).await.unwrap_err();
    assert!(
        refused.code() == Code::ResourceExhausted && refused.message().contains("grpc.max_subscribers"),
        "{refused:?}"
    );

    let mut follower = tokio::net::TcpStream::connect(fixture.http).await.unwrap();
    follower.write_all(b"GET /v1/streams/shop/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut begin = [0; 12];
    follower.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    let (status, text) = fixture.get("/v1/streams/shop/events", "").await;
    assert!(status == 503 && text.contains("http.max_event_streams"), "{text}");
    let silent = tokio::net::TcpStream::connect(fixture.http).await.unwrap();
    // The third connection is closed at once, and when one has gone there is room again.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while fixture.get("/health", "").await.0 != 0 {
        assert!(tokio::time::Instant::now() < deadline, "a third connection was served");
    }
    drop(silent);
    while fixture.get("/health", "").await.0 != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the seat was not given back");
    }
    drop(follower);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named_with_what_chooses_another() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let mut config = Config::load_with(None, &Default::default(), &Default::default()).unwrap();
    config.grpc.listen = "127.0.0.1:0".parse().unwrap();
    config.http.listen = address;
    let Err(error) = Ports::bind(&config).await else { panic!("bound twice") };
    let text = error.to_string();
    assert!(
        matches!(error, ServeError::PortInUse { .. }) && text.contains(&address.to_string()) && text.contains("--http"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_nobody() {
    let mut fixture = Fixture::start().await;
    let orders = table("orders");
    let mut stalled = fixture.subscribe(proto::Start { from: earliest(), ..Default::default() }).await;
    stalled.progress_to(0).await;
    let mut reading = fixture.subscribe(proto::Start { from: earliest(), ..Default::default() }).await;
    let note = vec![b'n'; 1 << 20];
    let mut seen = 0;
    for number in 0..40 {
        fixture.commit(&[(&orders, insert(&number.to_string(), &note))]).await;
        seen += reading.events(1).await.len();
    }
    assert_eq!(seen, 40);
    // It still gets everything, once it reads.
    assert_eq!(offsets(&stalled.events(40).await), (1..=40).collect::<Vec<_>>());
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_memory_for_delivery_in_the_hands_of_clients_that_do_not_read_others_still_get_everything() {
    // Everything comes from disk, one reader at a time, and no more than the smallest pieces are sent.
    let mut fixture = Fixture::start_with(|config, options| {
        config.delivery_bytes = 1;
        (options.tail_ring_bytes, options.read_ahead_bytes) = (0, 1);
    })
    .await;
    let orders = table("orders");
    let note = vec![b'n'; 20_000];
    for number in 0..300 {
        fixture.commit(&[(&orders, insert(&number.to_string(), &note))]).await;
    }
    let start = || proto::Start { from: earliest(), ..Default::default() };
    let mut stalled = Vec::new();
    for _ in 0..3 {
        // Its first event shows that it is being served; then it reads no more.
        let mut client = fixture.subscribe(start()).await;
        assert_eq!(offsets(&client.events(1).await)[0], 1);
        stalled.push(client);
    }
    let mut reading = fixture.subscribe(start()).await;
    assert_eq!(offsets(&reading.events(300).await), (1..=300).collect::<Vec<_>>());
    // They lost nothing by it.
    for mut client in stalled {
        assert_eq!(offsets(&client.events(299).await), (2..=300).collect::<Vec<_>>());
    }
    fixture.stop().await;
}
