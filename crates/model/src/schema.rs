//! A table's schema version: its columns, and the fingerprint that identifies it by content.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::type_kind::{TypeDescription, TypeKind};

/// First byte of an encoded schema: the layout's version. Version 2 has the columns' descriptions; a schema without any
/// is written as version 1, so that its fingerprint is what it always was.
const LAYOUT_PLAIN: u8 = 1;
const LAYOUT_DESCRIBED: u8 = 2;

/// Types nest this deep at most; PostgreSQL has no limit, but nobody has reached ten.
const NESTED_MAX: usize = 32;

/// A schema version: what PostgreSQL's Relation and Type messages say of a table, and what kinds of types those are that
/// are not PostgreSQL's own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableSchema {
    /// Namespace ("schema" in SQL).
    pub namespace: String,
    /// Table name.
    pub table: String,
    /// What identifies a row in updates and deletes.
    pub replica_identity: ReplicaIdentity,
    /// Columns in the order of a row's cells; at most 1,600 (PostgreSQL's limit).
    pub columns: Vec<Column>,
}

/// One column of a schema version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Column name.
    pub name: String,
    /// Type name: PostgreSQL's own types by bare name (`int4`), others as `namespace.name`. A domain's is its base type's.
    pub type_name: String,
    /// Type OID on the source. Advisory above 9,999: such OIDs differ between databases, so they are
    /// not part of the fingerprint.
    pub type_oid: u32,
    /// Type modifier (`atttypmod`), -1 for none.
    pub type_modifier: i32,
    /// Whether the column belongs to the replica identity.
    pub in_identity: bool,
    /// What the type is, when it is not PostgreSQL's own. None for PostgreSQL's own types, whose names say it, and in
    /// what was announced but not looked up yet.
    pub description: Option<TypeDescription>,
}

/// A table's replica identity (`pg_class.relreplident`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ReplicaIdentity {
    /// The primary key, if there is one.
    Default = b'd',
    /// Nothing: updates and deletes of a published table fail at the source.
    Nothing = b'n',
    /// The whole old row.
    Full = b'f',
    /// A chosen unique index.
    Index = b'i',
}

impl ReplicaIdentity {
    /// From `pg_class.relreplident`.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            b'd' => Some(Self::Default),
            b'n' => Some(Self::Nothing),
            b'f' => Some(Self::Full),
            b'i' => Some(Self::Index),
            _ => None,
        }
    }
}

/// 16 bytes that identify a schema version by content: equal on every daemon and after every restart.
///
/// The first 16 bytes of SHA-256 over the encoded schema with every type OID set to zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    /// The first 16 bytes of SHA-256 over these.
    pub fn of(bytes: &[u8]) -> Self {
        let mut fingerprint = [0; 16];
        fingerprint.iter_mut().zip(Sha256::digest(bytes)).for_each(|(to, from)| *to = from);
        Self(fingerprint)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The bytes are not an encoded schema of a known layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaDecodeError {
    /// Written by a newer version of this program.
    #[error("schema layout version {0} is not known to this version")]
    Version(u8),
    /// Damaged bytes.
    #[error("the stored schema is damaged")]
    Damaged,
}

impl TableSchema {
    /// The schema's identity.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.encode_with(|_| 0))
    }

    /// The schema as bytes, for disk. Layout in docs/format.md, "Schemas".
    pub fn encode(&self) -> Vec<u8> {
        self.encode_with(|column| column.type_oid)
    }

    /// As it was announced: without descriptions, which are looked up.
    pub fn announced(&self) -> Self {
        let mut announced = self.clone();
        announced.columns.iter_mut().for_each(|column| column.description = None);
        announced
    }

    fn encode_with(&self, oid: impl Fn(&Column) -> u32) -> Vec<u8> {
        let described = self.columns.iter().any(|column| column.description.is_some());
        let layout = if described { LAYOUT_DESCRIBED } else { LAYOUT_PLAIN };
        let mut out = vec![layout, self.replica_identity as u8];
        put_text(&mut out, &self.namespace);
        put_text(&mut out, &self.table);
        put_length(&mut out, self.columns.len());
        for column in &self.columns {
            put_text(&mut out, &column.name);
            put_text(&mut out, &column.type_name);
            out.extend_from_slice(&oid(column).to_be_bytes());
            out.extend_from_slice(&column.type_modifier.to_be_bytes());
            out.push(u8::from(column.in_identity));
            if described {
                out.push(u8::from(column.description.is_some()));
                column.description.iter().for_each(|description| put_description(&mut out, description));
            }
        }
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// When the layout is unknown or the bytes are damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, SchemaDecodeError> {
        let (&version, rest) = bytes.split_first().ok_or(SchemaDecodeError::Damaged)?;
        let described = match version {
            LAYOUT_PLAIN => false,
            LAYOUT_DESCRIBED => true,
            other => return Err(SchemaDecodeError::Version(other)),
        };
        decode_schema(rest, described).ok_or(SchemaDecodeError::Damaged)
    }
}

fn decode_schema(mut bytes: &[u8], described: bool) -> Option<TableSchema> {
    let input = &mut bytes;
    let [identity] = take(input)?;
    let replica_identity = ReplicaIdentity::from_code(identity)?;
    let namespace = take_text(input)?;
    let table = take_text(input)?;
    let count = u32::from_be_bytes(take(input)?);
    let mut columns = Vec::new();
    for _ in 0..count {
        let name = take_text(input)?;
        let type_name = take_text(input)?;
        let type_oid = u32::from_be_bytes(take(input)?);
        let type_modifier = i32::from_be_bytes(take(input)?);
        let [in_identity] = take(input)?;
        let description = match described.then(|| take(input)) {
            None => None,
            Some(flag) if flag? == [0] => None,
            Some(_) => Some(take_description(input, NESTED_MAX)?),
        };
        columns.push(Column { name, type_name, type_oid, type_modifier, in_identity: in_identity == 1, description });
    }
    bytes.is_empty().then_some(TableSchema { namespace, table, replica_identity, columns })
}

fn put_description(out: &mut Vec<u8>, description: &TypeDescription) {
    put_text(out, &description.name);
    out.push(description.kind.code());
    if let TypeKind::Array { delimiter, .. } = &description.kind {
        out.push(*delimiter);
    }
    if let Some(inner) = description.kind.inner() {
        put_description(out, inner);
    }
}

fn take_description(input: &mut &[u8], deeper_max: usize) -> Option<TypeDescription> {
    let deeper_max = deeper_max.checked_sub(1)?;
    let name = take_text(input)?;
    let [code] = take(input)?;
    let inner = |input: &mut &[u8]| take_description(input, deeper_max).map(Box::new);
    let kind = match code {
        b'b' => TypeKind::Base,
        b'e' => TypeKind::Enum,
        b'c' => TypeKind::Composite,
        b'a' => {
            let [delimiter] = take(input)?;
            TypeKind::Array { delimiter, element: inner(input)? }
        }
        b'r' => TypeKind::Range(inner(input)?),
        b'm' => TypeKind::Multirange(inner(input)?),
        b'd' => TypeKind::Domain(inner(input)?),
        b'?' => TypeKind::Unknown,
        _ => return None,
    };
    Some(TypeDescription { name, kind })
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    // Names are at most 63 bytes per part and columns at most 1,600 on any real server; what a lying
    // server could send is bounded by the message size limit, far below 4 GiB.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_length(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*head)
}

fn take_text(input: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(u32::from_be_bytes(take(input)?)).ok()?;
    let (text, rest) = input.split_at_checked(length)?;
    *input = rest;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> TableSchema {
        let column = |name: &str, type_name: &str, type_oid, in_identity| Column {
            name: name.into(),
            type_name: type_name.into(),
            type_oid,
            type_modifier: -1,
            in_identity,
            description: None,
        };
        TableSchema {
            namespace: "shop".into(),
            table: "orders".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: vec![column("id", "int8", 20, true), column("state", "shop.order_state", 16_390, false)],
        }
    }

    #[test]
    fn a_schema_survives_encoding_and_no_cut_of_it_decodes() {
        let bytes = orders().encode();
        assert_eq!(TableSchema::decode(&bytes), Ok(orders()));
        for cut in 0..bytes.len() {
            assert!(TableSchema::decode(&bytes[..cut]).is_err());
        }
        assert_eq!(TableSchema::decode(&[9, b'd']), Err(SchemaDecodeError::Version(9)));
    }

    #[test]
    fn descriptions_survive_encoding_and_are_part_of_the_fingerprint() {
        let mood = TypeDescription { name: "shop.mood".into(), kind: TypeKind::Enum };
        let happy = TypeDescription { name: "shop.happy".into(), kind: TypeKind::Domain(Box::new(mood)) };
        let array = TypeKind::Array { delimiter: b',', element: Box::new(happy) };
        let mut described = orders();
        described.columns[1].description = Some(TypeDescription { name: "shop._happy".into(), kind: array });
        let bytes = described.encode();
        assert_eq!(TableSchema::decode(&bytes).as_ref(), Ok(&described));
        for cut in 0..bytes.len() {
            assert!(TableSchema::decode(&bytes[..cut]).is_err());
        }
        assert_ne!(described.fingerprint(), orders().fingerprint());
        assert_eq!(described.announced(), orders());
    }

    #[test]
    fn types_nested_beyond_the_limit_are_refused_instead_of_overflowing_the_stack() {
        let mut kind = TypeKind::Base;
        for _ in 0..NESTED_MAX {
            kind = TypeKind::Domain(Box::new(TypeDescription { name: String::new(), kind }));
        }
        let mut deep = orders();
        deep.columns[0].description = Some(TypeDescription { name: String::new(), kind });
        assert_eq!(TableSchema::decode(&deep.encode()), Err(SchemaDecodeError::Damaged));
    }

    #[test]
    fn the_fingerprint_follows_names_and_types_but_not_oids() {
        let mut other = orders();
        other.columns[1].type_oid = 99_999;
        assert_eq!(other.fingerprint(), orders().fingerprint());
        other.columns[1].type_name = "shop.state".into();
        assert_ne!(other.fingerprint(), orders().fingerprint());
        // Golden: this value is on disk in users' logs.
        assert_eq!(orders().fingerprint().to_string(), "e918eb236a905a9f90995874c95ecbff");
    }
}
