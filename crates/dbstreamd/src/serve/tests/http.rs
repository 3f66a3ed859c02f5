//! Health, metrics, JSON, events and page; and the small gRPC questions that say the same.

use dbstreamd_model::{Notice, Severity};

use super::fixture::*;
use crate::proto;

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_and_streams_say_what_is() {
    let mut fixture = Fixture::start().await;
    let orders = table("orders");
    fixture.commit_many(&orders, 3).await;
    fixture
        .log
        .commit_offset(
            fixture.stream,
            &"audit".parse().unwrap(),
            dbstreamd_model::Offset(2),
            dbstreamd_log::Rewind::Refuse,
        )
        .await
        .unwrap();

    let (status, health) = fixture.get("/health", "").await;
    assert_eq!(status, 200, "{health}");
    assert!(health.contains("\"state\":\"INIT\"") && health.contains("\"status\":\"SERVING\""), "{health}");

    let (status, metrics) = fixture.get("/metrics", "").await;
    assert_eq!(status, 200, "{metrics}");
    for line in [
        "dbstreamd_stream_visible_offset{stream=\"shop\"} 3.0",
        "dbstreamd_stream_state{stream=\"shop\",state=\"INIT\"} 1",
        "dbstreamd_consumer_lag_events{stream=\"shop\",consumer=\"audit\"} 1.0",
        "dbstreamd_stream_received_events_total{stream=\"shop\"} 0.0",
        "dbstreamd_log_flushes_total ",
        "dbstreamd_log_flush_seconds_bucket{",
        "dbstreamd_credit_window_limit_bytes 1048576.0",
        "process_resident_memory_bytes ",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(metrics.trim_end().ends_with("# EOF"));

    let (status, streams) = fixture.get("/v1/streams", "").await;
    assert!(
        status == 200 && streams.contains("\"visible_offset\":3") && streams.contains("\"slot\":\"the_slot\""),
        "{streams}"
    );
    let (status, one) = fixture.get("/v1/streams/shop", "").await;
    assert!(status == 200 && one.contains("\"trim_point\":1"), "{one}");
    let (status, missing) = fixture.get("/v1/streams/nope", "").await;
    assert!(status == 404 && missing.contains("nope") && missing.contains("shop"), "{missing}");
    let (status, consumers) = fixture.get("/v1/consumers", "").await;
    assert!(status == 200 && consumers.contains("\"committed_offset\":2"), "{consumers}");
    let (status, page) = fixture.get("/", "").await;
    assert!(
        status == 200
            && page.contains("<title>dbstreamd</title>")
            && page.contains("content-security-policy: default-src 'none'"),
        "{page}"
    );
    assert_eq!(fixture.get("/elsewhere", "").await.0, 404);

    let mut client = fixture.client().await;
    let streams = client.list_streams(proto::ListStreamsRequest {}).await.unwrap().into_inner().streams;
    assert_eq!((streams[0].visible_offset, streams[0].trim_point, streams[0].slot.as_str()), (3, 1, "the_slot"));
    let fingerprint = bytes::Bytes::copy_from_slice(&orders.fingerprint().0);
    let ask = |fingerprint| proto::GetSchemaRequest { stream: "shop".into(), fingerprint, ..Default::default() };
    assert_eq!(client.get_schema(ask(fingerprint)).await.unwrap().into_inner().table, "orders");
    assert_eq!(client.get_schema(ask(vec![0; 16].into())).await.unwrap_err().code(), tonic::Code::NotFound);
    assert_eq!(client.get_schema(ask(vec![0; 3].into())).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_health_and_reflection_are_there() {
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
    let fixture = Fixture::start().await;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{}", fixture.grpc)).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "dbstreamd.v1.Streams", "stream/shop"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest,
    };
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("dbstreamd.v1.Streams".into())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = format!("{:?}", answers.message().await.unwrap().unwrap());
    assert!(answer.contains("FileDescriptorResponse"), "{answer}");
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_can_be_followed_with_plain_http() {
    let mut fixture = Fixture::start().await;
    let (orders, items) = (table("orders"), table("items"));
    fixture
        .commit(&[(&orders, insert("1", b"hello")), (&items, insert("2", b"x")), (&orders, insert("3", b"y"))])
        .await;
    let (status, text) =
        fixture.get("/v1/streams/shop/events?from=earliest&table=shop.orders&table=other.*&limit=2", "").await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("content-type: text/event-stream"), "{text}");
    let ids: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["0", "1", "3"], "{text}");
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(body.contains("id: 0\n\n"), "the first block has data: {body}");
    let json: serde_json::Value =
        serde_json::from_str(text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap()).unwrap();
    assert_eq!((&json["op"], &json["after"]["note"]), (&"insert".into(), &"hello".into()));

    // A browser that comes back says where it was, whatever the query says.
    let (_, resumed) = fixture.get("/v1/streams/shop/events?from=earliest&limit=1", "Last-Event-ID: 2\r\n").await;
    assert!(resumed.contains("id: 2\n\n") && resumed.contains("id: 3"), "{resumed}");
    // Who reconnects before anything matched resumes where it first came in.
    let (_, gone) = fixture.get("/v1/streams/shop/events?limit=1", "Last-Event-ID: 0\r\n").await;
    assert!(gone.contains("id: 1\n"), "{gone}");
    for (query, wanted, says) in [
        ("?from=17", 416, "17"),
        ("?from=nowhere", 400, "earliest"),
        ("?limit=0", 400, "limit"),
        ("?table=orders", 400, "schema"),
        ("?color=red", 400, "color"),
    ] {
        let (status, text) = fixture.get(&format!("/v1/streams/shop/events{query}"), "").await;
        assert!(status == wanted && text.contains(says), "{query}: {status} {text}");
    }
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_are_listed_after_a_sequence_and_counted() {
    let fixture = Fixture::start().await;
    let shop = "shop".parse().unwrap();
    for text in ["one", "two", "three"] {
        fixture.notices.push(Notice::new(Severity::Warning, "test_kind", text).of_stream(&shop));
    }
    let listed = async |query: &str| {
        let (status, body) = fixture.get(&format!("/v1/notices{query}"), "").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<serde_json::Value>(body.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    let all = listed("").await;
    let notices = all["notices"].as_array().unwrap();
    let first = &notices[0];
    assert_eq!((notices.len(), &first["text"], &first["stream"]), (3, &"one".into(), &"shop".into()));
    assert_eq!((&first["kind"], &first["severity"]), (&"test_kind".into(), &"warning".into()));
    assert!(first["consumer"].is_null() && first["time"].as_str().unwrap().ends_with('Z'), "{first}");
    let after = listed(&format!("?after={}&limit=1", first["sequence"])).await;
    assert_eq!((after["notices"].as_array().unwrap().len(), &after["notices"][0]["text"]), (1, &"two".into()));
    for bad in ["?after=x", "?limit=0", "?since=1"] {
        let (status, body) = fixture.get(&format!("/v1/notices{bad}"), "").await;
        assert_eq!(status, 400, "{bad}: {body}");
    }
    let (_, metrics) = fixture.get("/metrics", "").await;
    let counted = "dbstreamd_notices_total{kind=\"test_kind\",severity=\"warning\"} 3";
    assert!(metrics.contains(counted), "{metrics}");
}
