//! What a NATS server says, taken apart where it lies.
//!
//! From the protocol's reference, <https://docs.nats.io/reference/reference-protocols/nats-protocol>: lines of words that
//! end in CR LF; after the line of a message comes its payload and another CR LF.

use crate::error::LabError;

/// The longest line that is taken: the server's `INFO` has room in it.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// The largest payload that is taken, headers included: a server's default limit.
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
const LINE_END: &[u8] = b"\r\n";
/// The first line of the headers of what the server itself says within a subscription: a heartbeat or a request of flow control.
const STATUS: &[u8] = b"NATS/1.0 100 ";
/// Names, in a heartbeat, the subject that a subscriber must answer to for deliveries to go on.
const STALLED: &[u8] = b"Nats-Consumer-Stalled:";

/// One thing that a server says.
#[derive(Debug, PartialEq)]
pub(crate) enum Operation<'a> {
    /// What was published, to one subscription.
    Message {
        subscription: u64,
        payload: &'a [u8],
    },
    /// The server waits for an empty message on this subject before it delivers on.
    Asked {
        subject: &'a str,
    },
    Ping,
    Pong,
    /// `INFO`, `+OK` and heartbeats: nothing is to be done.
    Other,
}

/// The operation at the beginning of `input` and how long it is; none while it has not come entirely.
///
/// # Errors
/// When the server reports an error, or says what no server says.
pub(crate) fn operation(input: &[u8]) -> Result<Option<(Operation<'_>, usize)>, LabError> {
    let Some(end) = input.windows(LINE_END.len()).take(LINE_BYTES_MAX).position(|two| two == LINE_END) else {
        return if input.len() > LINE_BYTES_MAX { Err(unexpected(input)) } else { Ok(None) };
    };
    let line = input.get(..end).unwrap_or_default();
    let rest = input.get(end + LINE_END.len()..).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| unexpected(line))?;
    let bad = || unexpected(line.as_bytes());
    let mut words = line.split_ascii_whitespace();
    let head = words.next().ok_or_else(bad)?;
    let plain = |operation| Ok(Some((operation, end + LINE_END.len())));
    match head {
        "MSG" | "HMSG" => {}
        "PING" => return plain(Operation::Ping),
        "PONG" => return plain(Operation::Pong),
        "INFO" | "+OK" => return plain(Operation::Other),
        "-ERR" => return Err(LabError::Failed(format!("NATS: {line}"))),
        _ => return Err(bad()),
    }
    // MSG <subject> <sid> [reply-to] <#bytes>, HMSG <subject> <sid> [reply-to] <#header bytes> <#total bytes>
    let _subject = words.next().ok_or_else(bad)?;
    let subscription = words.next().and_then(|id| id.parse().ok()).ok_or_else(bad)?;
    let bytes: usize = words.next_back().and_then(|bytes| bytes.parse().ok()).ok_or_else(bad)?;
    let headers: usize =
        if head == "HMSG" { words.next_back().and_then(|bytes| bytes.parse().ok()).ok_or_else(bad)? } else { 0 };
    let reply = words.next();
    if bytes > PAYLOAD_BYTES_MAX || headers > bytes || words.next().is_some() {
        return Err(bad());
    }
    let Some((content, after)) = rest.split_at_checked(bytes) else { return Ok(None) };
    let Some(line_end) = after.get(..LINE_END.len()) else { return Ok(None) };
    if line_end != LINE_END {
        return Err(bad());
    }
    let (headers, payload) = content.split_at_checked(headers).ok_or_else(bad)?;
    let operation = if headers.starts_with(STATUS) {
        match stalled(headers).or(reply) {
            Some(subject) => Operation::Asked { subject },
            None => Operation::Other,
        }
    } else {
        Operation::Message { subscription, payload }
    };
    Ok(Some((operation, input.len() - after.len() + LINE_END.len())))
}

fn stalled(headers: &[u8]) -> Option<&str> {
    let value = headers.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(STALLED))?;
    std::str::from_utf8(value).ok().map(str::trim)
}

fn unexpected(said: &[u8]) -> LabError {
    let said = String::from_utf8_lossy(said.get(..said.len().min(80)).unwrap_or_default()).into_owned();
    LabError::Failed(format!("NATS said what is not expected here: {said:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(input: &str) -> Operation<'_> {
        let (operation, length) = operation(input.as_bytes()).unwrap().unwrap();
        assert_eq!(length, input.len());
        operation
    }

    #[test]
    fn messages_come_with_and_without_reply_and_headers() {
        let hello = |subscription| Operation::Message { subscription, payload: b"hello" };
        assert_eq!(one("MSG a.b 7 5\r\nhello\r\n"), hello(7));
        assert_eq!(one("MSG a.b 7 reply 5\r\nhello\r\n"), hello(7));
        assert_eq!(one("HMSG a.b 9 12 17\r\nNATS/1.0\r\n\r\nhello\r\n"), hello(9));
        assert_eq!(one("MSG a 1 0\r\n\r\n"), Operation::Message { subscription: 1, payload: b"" });
    }

    #[test]
    fn flow_control_and_stalled_heartbeats_ask_for_an_answer_and_other_heartbeats_do_not() {
        let asked = Operation::Asked { subject: "fc.1" };
        assert_eq!(one("HMSG d 1 fc.1 30 30\r\nNATS/1.0 100 FlowControl R\r\n\r\n\r\n"), asked);
        let stalled = "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 1\r\nNats-Consumer-Stalled: fc.1\r\n\r\n";
        let length = stalled.len();
        assert_eq!(one(&format!("HMSG d 1 {length} {length}\r\n{stalled}\r\n")), asked);
        assert_eq!(one("HMSG d 1 31 31\r\nNATS/1.0 100 Idle Heartbeat\r\n\r\n\r\n"), Operation::Other);
    }

    #[test]
    fn whatever_is_cut_off_is_waited_for() {
        let whole = b"HMSG a.b 9 reply 12 17\r\nNATS/1.0\r\n\r\nhello\r\n";
        for length in 0..whole.len() {
            assert_eq!(operation(&whole[..length]).unwrap(), None, "{length} bytes");
        }
        assert!(operation(whole).unwrap().is_some());
    }

    #[test]
    fn what_no_server_says_is_refused() {
        let long = format!("INFO {}", "x".repeat(LINE_BYTES_MAX));
        let bad = [
            "-ERR 'Slow Consumer'\r\n",
            "MSG a 1\r\n",
            "MSG a x 5\r\nhello\r\n",
            "MSG a 1 5\r\nhello??",
            "MSG a 1 99999999999\r\n",
            "HMSG a 1 6 5\r\nhello\r\n",
            "MSG a 1 r extra 5\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\n",
            "\r\n",
            &long,
        ];
        for said in bad {
            assert!(operation(said.as_bytes()).is_err(), "{said:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_read_beyond_them(bytes: Vec<u8>, of_a_message: bool) {
            let mut input = if of_a_message { b"MSG a 1 ".to_vec() } else { Vec::new() };
            input.extend(bytes);
            if let Ok(Some((_, length))) = operation(&input) {
                proptest::prop_assert!(length > 0 && length <= input.len());
            }
        }
    }
}
