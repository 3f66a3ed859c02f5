//! What a type is, for types that are not PostgreSQL's own: what decides how its values are read.

/// A type by its name and kind.
///
/// A type's kind, an array's element, a range's subtype and a domain's base cannot be changed as long as the type
/// exists; an enum's labels and a composite's attributes can, so they are not here but in [`TableFacts`](crate::TableFacts).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TypeDescription {
    /// PostgreSQL's own types by bare name (`int4`), others as `namespace.name`.
    pub name: String,
    /// What it is.
    pub kind: TypeKind,
}

/// The kinds of types (`pg_type.typtype` and `typcategory`; PostgreSQL documentation, section 53.64 "pg_type").
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum TypeKind {
    /// PostgreSQL's own, whose name says what it is, or an extension's, of which only the text form is known.
    Base,
    /// A label out of a list.
    Enum,
    /// A row of attributes.
    Composite,
    /// Values of one type, in up to six dimensions.
    Array {
        /// What stands between two elements in the text form; `,` for all but a few types.
        delimiter: u8,
        /// The type of its elements.
        element: Box<TypeDescription>,
    },
    /// A range of values of this type.
    Range(Box<TypeDescription>),
    /// Ranges of values of this type.
    Multirange(Box<TypeDescription>),
    /// A domain over this type; its values are that type's.
    Domain(Box<TypeDescription>),
    /// It was gone when it was looked up: its values are known in text form only.
    Unknown,
}

impl TypeKind {
    /// The letter on disk.
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Base => b'b',
            Self::Enum => b'e',
            Self::Composite => b'c',
            Self::Array { .. } => b'a',
            Self::Range(_) => b'r',
            Self::Multirange(_) => b'm',
            Self::Domain(_) => b'd',
            Self::Unknown => b'?',
        }
    }

    /// An array's element, a range's subtype, a domain's base.
    pub fn inner(&self) -> Option<&TypeDescription> {
        match self {
            Self::Array { element: inner, .. } | Self::Range(inner) | Self::Multirange(inner) | Self::Domain(inner) => {
                Some(inner)
            }
            Self::Base | Self::Enum | Self::Composite | Self::Unknown => None,
        }
    }
}
