//! Authentication: what the server asks for, what we answer, and what we refuse to answer.
//!
//! Policy: SCRAM always, bound to the TLS channel whenever both sides can. MD5 is answered, since older roles still have
//! MD5 verifiers, but not under `channel_binding=require`. A password in clear goes only over TLS, a Unix socket, or when
//! the configuration allows it. Nothing else is spoken. The server's own proof (SCRAM's server signature) must be right.

use bytes::{Buf, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as Binding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;

use super::error::{PgError, ServerError};
use super::options::{ChannelBinding, ConnectOptions, Endpoint};
use super::secret::Secret;
use super::socket::Stream;
use super::tls;
use super::wire::{Wire, c_text, server_error};

/// Steps of the longest exchange (SASL: request, continue, final, ok), with room; a server that goes on asking is none.
const STEPS_MAX: usize = 10;

/// Answers the server until it is content.
pub(crate) async fn authenticate(
    wire: &mut Wire,
    options: &ConnectOptions,
    endpoint: &Endpoint,
) -> Result<(), PgError> {
    let mut exchange = Exchange { options, endpoint, scram: None, bound: false, server_proved: false };
    for _ in 0..STEPS_MAX {
        let message = wire.receive().await?;
        match message.tag {
            b'R' => {
                let Some(answer) = exchange.step(&message.body, wire)? else { return Ok(()) };
                wire.send(&answer).await?;
            }
            b'E' => return Err(refused(wire, server_error(&message.body))),
            // The server knows protocol 3.0 and some of our `_pq_` options not; we send none.
            b'v' => {}
            tag => return Err(PgError::protocol(format!("message {:?} during authentication", char::from(tag)))),
        }
    }
    Err(PgError::protocol("authentication does not come to an end"))
}

pub(crate) fn refused(wire: &Wire, error: ServerError) -> PgError {
    PgError::Refused { address: wire.address.clone(), error: Box::new(error) }
}

struct Exchange<'a> {
    options: &'a ConnectOptions,
    endpoint: &'a Endpoint,
    scram: Option<ScramSha256>,
    /// The SCRAM exchange is bound to the TLS channel.
    bound: bool,
    /// The server has shown that it knows the password too.
    server_proved: bool,
}

impl Exchange<'_> {
    /// One Authentication message; the answer, or none when we are in.
    fn step(&mut self, mut body: &[u8], wire: &Wire) -> Result<Option<BytesMut>, PgError> {
        let short = |_| PgError::NotPostgres {
            address: wire.address.clone(),
            detail: "its authentication request is cut short".to_owned(),
        };
        let kind = body.try_get_i32().map_err(short)?;
        let mut answer = BytesMut::new();
        match kind {
            0 => return self.accepted().map(|()| None),
            3 => {
                self.refuse_unbound()?;
                if !wire.stream.is_encrypted() && !wire.stream.is_unix() && !self.options.allow_cleartext_password {
                    return Err(PgError::CleartextRefused { address: wire.address.clone() });
                }
                frontend::password_message(self.password()?.reveal().as_bytes(), &mut answer).map_err(PgError::Lost)?;
            }
            5 => {
                self.refuse_unbound()?;
                let salt = body.first_chunk().ok_or_else(|| PgError::protocol("an MD5 request without salt"))?;
                let hash = md5_hash(self.options.user.as_bytes(), self.password()?.reveal().as_bytes(), *salt);
                frontend::password_message(hash.as_bytes(), &mut answer).map_err(PgError::Lost)?;
            }
            10 => self.sasl_begin(body, wire, &mut answer)?,
            11 => {
                let scram = self.scram.as_mut().ok_or_else(|| PgError::protocol("SASL continues that never began"))?;
                scram.update(body).map_err(|error| PgError::Scram(error.to_string()))?;
                frontend::sasl_response(scram.message(), &mut answer).map_err(PgError::Lost)?;
            }
            12 => {
                let mut scram = self.scram.take().ok_or_else(|| PgError::protocol("SASL ends that never began"))?;
                scram.finish(body).map_err(|error| PgError::Scram(error.to_string()))?;
                self.server_proved = true;
            }
            other => return Err(PgError::AuthMethod { method: method(other) }),
        }
        Ok(Some(answer))
    }

    /// The server says that we are in: it must have proved itself if it began to, and be bound if that was demanded.
    fn accepted(&self) -> Result<(), PgError> {
        if self.scram.is_some() && !self.server_proved {
            return Err(PgError::Scram("the server did not prove that it knows the password".to_owned()));
        }
        if self.options.channel_binding == ChannelBinding::Require && !(self.bound && self.server_proved) {
            return Err(PgError::ChannelBinding(
                "the server let us in without it; demand scram-sha-256 in pg_hba.conf",
            ));
        }
        Ok(())
    }

    fn refuse_unbound(&self) -> Result<(), PgError> {
        match self.options.channel_binding {
            ChannelBinding::Require => Err(PgError::ChannelBinding(
                "the server asks for a password without SCRAM; demand scram-sha-256 in pg_hba.conf",
            )),
            _ => Ok(()),
        }
    }

    fn sasl_begin(&mut self, offered: &[u8], wire: &Wire, answer: &mut BytesMut) -> Result<(), PgError> {
        let mut mechanisms = Vec::new();
        let mut rest = offered;
        while let Some((name, next)) = c_text(rest).filter(|(name, _)| !name.is_empty()) {
            mechanisms.push(name);
            rest = next;
        }
        let offers = |name: &str| mechanisms.iter().any(|offered| offered == name);
        let end_point = match &wire.stream {
            Stream::Tls(stream) if self.options.channel_binding != ChannelBinding::Disable => {
                tls::server_end_point(stream)
            }
            _ => None,
        };
        let (mechanism, binding) = match end_point {
            Some(hash) if offers(SCRAM_SHA_256_PLUS) => {
                self.bound = true;
                (SCRAM_SHA_256_PLUS, Binding::tls_server_end_point(hash))
            }
            _ if self.options.channel_binding == ChannelBinding::Require => {
                return Err(PgError::ChannelBinding(if !wire.stream.is_encrypted() {
                    "the connection is not encrypted; use sslmode=require or stronger"
                } else if end_point.is_some() {
                    "the server does not offer SCRAM-SHA-256-PLUS"
                } else {
                    "the server's certificate has a signature without a hash of its own (Ed25519, RSA-PSS); use one signed with SHA-256"
                }));
            }
            // "We could, you cannot": the server checks that nobody between has struck its offer from the list.
            Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, Binding::unrequested()),
            None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, Binding::unsupported()),
            _ => return Err(PgError::AuthMethod { method: format!("SASL {}", mechanisms.join(", ")) }),
        };
        let scram = ScramSha256::new(self.password()?.reveal().as_bytes(), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), answer).map_err(PgError::Lost)?;
        self.scram = Some(scram);
        Ok(())
    }

    fn password(&self) -> Result<Secret, PgError> {
        let password = self.options.password_for(self.endpoint);
        password.ok_or_else(|| PgError::PasswordMissing { user: self.options.user.clone() })
    }
}

fn method(kind: i32) -> String {
    match kind {
        2 => "Kerberos V5".to_owned(),
        7 | 8 => "GSSAPI".to_owned(),
        9 => "SSPI".to_owned(),
        other => format!("unknown ({other})"),
    }
}
