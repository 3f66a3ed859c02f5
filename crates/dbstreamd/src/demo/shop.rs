//! A small shop: its tables, and its business as transactions that know which changes they make.

use std::fmt::Write as _;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::proto::Operation;

/// The shop's tables. `products` keeps whole old rows in the WAL, so that updates show what changed.
pub(super) const SCHEMA: &str = "
CREATE SCHEMA shop;
CREATE TYPE shop.order_state AS ENUM ('new', 'paid', 'packed', 'shipped');
CREATE TABLE shop.customers (
    id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE,
    preferences jsonb NOT NULL DEFAULT '{}', since timestamptz NOT NULL DEFAULT now());
CREATE TABLE shop.products (
    id bigint PRIMARY KEY, name text NOT NULL, price numeric(8,2) NOT NULL, stock integer NOT NULL);
ALTER TABLE shop.products REPLICA IDENTITY FULL;
CREATE TABLE shop.orders (
    id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES shop.customers,
    state shop.order_state NOT NULL DEFAULT 'new', total numeric(10,2) NOT NULL, placed_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE shop.order_items (
    order_id bigint REFERENCES shop.orders, line smallint, product_id bigint NOT NULL REFERENCES shop.products,
    quantity integer NOT NULL, price numeric(8,2) NOT NULL, PRIMARY KEY (order_id, line));
";

const PRODUCTS: [(&str, u32); 8] = [
    ("oak table", 34_900),
    ("desk lamp", 4_990),
    ("wool blanket", 7_950),
    ("tea pot", 2_400),
    ("wall clock", 3_150),
    ("book shelf", 18_900),
    ("garden chair", 5_600),
    ("brass kettle", 6_425),
];
const FIRST_NAMES: [&str; 10] =
    ["Ada", "Grace", "Edsger", "Barbara", "Donald", "Margaret", "Alan", "Radia", "Ken", "Lynn"];
const LAST_NAMES: [&str; 8] = ["Novak", "Meyer", "Rossi", "Silva", "Jansen", "Kowalski", "Dubois", "Lindqvist"];
const STATES: [&str; 4] = ["new", "paid", "packed", "shipped"];
/// Orders on their way; above it the shop ships before it sells.
const OPEN_ORDERS_MAX: usize = 200;
/// Most lines of one order.
const LINES_MAX: u8 = 4;
/// Below this a product is ordered again.
const STOCK_LOW: i64 = 20;

/// One change as it will have to arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Change {
    pub(super) operation: Operation,
    pub(super) table: &'static str,
    /// The primary key: one or two numbers.
    pub(super) key: (i64, Option<i64>),
}

/// The names of a table's key columns.
pub(super) fn key_columns(table: &str) -> (&'static str, Option<&'static str>) {
    match table {
        "order_items" => ("order_id", Some("line")),
        _ => ("id", None),
    }
}

/// One transaction: its SQL, and its changes in order.
pub(super) struct Transaction {
    pub(super) sql: String,
    pub(super) changes: Vec<Change>,
}

impl Transaction {
    fn begin() -> Self {
        Self { sql: "BEGIN;".to_owned(), changes: Vec::new() }
    }

    fn add(
        &mut self,
        operation: Operation,
        table: &'static str,
        key: (i64, Option<i64>),
        sql: std::fmt::Arguments<'_>,
    ) {
        // Writing to a String cannot fail.
        let _ = write!(self.sql, " {sql};");
        self.changes.push(Change { operation, table, key });
    }

    fn commit(mut self) -> Self {
        self.sql.push_str(" COMMIT");
        self
    }
}

struct Order {
    id: i64,
    state: usize,
    lines: u8,
}

/// The shop's books.
pub(super) struct Shop {
    dice: StdRng,
    customers: i64,
    stock: Vec<i64>,
    open_orders: Vec<Order>,
    last_order: i64,
}

impl Shop {
    /// A new shop without goods or customers; the same business every time.
    pub(super) fn open() -> Self {
        Self { dice: StdRng::seed_from_u64(1), customers: 0, stock: Vec::new(), open_orders: Vec::new(), last_order: 0 }
    }

    pub(super) fn next_transaction(&mut self) -> Transaction {
        if self.stock.is_empty() {
            return self.stock_up();
        }
        if self.customers < 3 {
            return self.new_customer();
        }
        match self.dice.random_range(0..100) {
            0..10 => self.new_customer(),
            10..50 if self.open_orders.len() < OPEN_ORDERS_MAX => self.place_order(),
            50..58 => self.change_price(),
            58..64 => self.change_preferences(),
            64..71 if !self.open_orders.is_empty() => self.cancel_order(),
            _ if !self.open_orders.is_empty() => self.advance_order(),
            _ => self.place_order(),
        }
    }

    fn stock_up(&mut self) -> Transaction {
        let mut transaction = Transaction::begin();
        for (id, (name, cents)) in (1..).zip(PRODUCTS) {
            let price = money(cents);
            transaction.add(
                Operation::Insert,
                "products",
                (id, None),
                format_args!("INSERT INTO shop.products VALUES ({id}, '{name}', {price}, 500)"),
            );
            self.stock.push(500);
        }
        transaction.commit()
    }

    fn new_customer(&mut self) -> Transaction {
        self.customers += 1;
        let id = self.customers;
        let first = FIRST_NAMES.choose(&mut self.dice).copied().unwrap_or_default();
        let last = LAST_NAMES.choose(&mut self.dice).copied().unwrap_or_default();
        let mail = format!("{}.{id}@example.com", first.to_lowercase());
        let mut transaction = Transaction::begin();
        transaction.add(
            Operation::Insert,
            "customers",
            (id, None),
            format_args!("INSERT INTO shop.customers (id, name, email) VALUES ({id}, '{first} {last}', '{mail}')"),
        );
        transaction.commit()
    }

    fn place_order(&mut self) -> Transaction {
        self.last_order += 1;
        let (id, customer) = (self.last_order, self.dice.random_range(1..=self.customers));
        let lines = self.dice.random_range(1..=LINES_MAX);
        let goods: Vec<(i64, u32, i64)> = (0..lines)
            .map(|_| {
                let product = self.dice.random_range(0..PRODUCTS.len());
                let quantity = self.dice.random_range(1..=3);
                (
                    1 + i64::try_from(product).unwrap_or(0),
                    PRODUCTS.get(product).map_or(0, |(_, cents)| *cents),
                    quantity,
                )
            })
            .collect();
        let total = goods.iter().map(|(_, cents, quantity)| cents * u32::try_from(*quantity).unwrap_or(0)).sum();
        let mut transaction = Transaction::begin();
        transaction.add(
            Operation::Insert,
            "orders",
            (id, None),
            format_args!(
                "INSERT INTO shop.orders (id, customer_id, total) VALUES ({id}, {customer}, {})",
                money(total)
            ),
        );
        for (line, (product, cents, quantity)) in (1_i64..).zip(&goods) {
            transaction.add(
                Operation::Insert,
                "order_items",
                (id, Some(line)),
                format_args!(
                    "INSERT INTO shop.order_items VALUES ({id}, {line}, {product}, {quantity}, {})",
                    money(*cents)
                ),
            );
        }
        for (product, _, quantity) in &goods {
            self.move_stock(&mut transaction, *product, -quantity);
        }
        self.open_orders.push(Order { id, state: 0, lines });
        transaction.commit()
    }

    /// Takes goods from the shelf, and fills it up when it gets empty.
    fn move_stock(&mut self, transaction: &mut Transaction, product: i64, quantity: i64) {
        let shelf = usize::try_from(product - 1).ok().and_then(|index| self.stock.get_mut(index));
        let left = shelf.map_or(0, |stock| {
            *stock += quantity;
            if *stock < STOCK_LOW {
                *stock += 500;
            }
            *stock
        });
        transaction.add(
            Operation::Update,
            "products",
            (product, None),
            format_args!("UPDATE shop.products SET stock = {left} WHERE id = {product}"),
        );
    }

    fn advance_order(&mut self) -> Transaction {
        let index = self.dice.random_range(0..self.open_orders.len());
        let mut transaction = Transaction::begin();
        let Some(order) = self.open_orders.get_mut(index) else { return transaction.commit() };
        order.state += 1;
        let state = STATES.get(order.state).copied().unwrap_or_default();
        let id = order.id;
        transaction.add(
            Operation::Update,
            "orders",
            (id, None),
            format_args!("UPDATE shop.orders SET state = '{state}' WHERE id = {id}"),
        );
        if order.state + 1 == STATES.len() {
            self.open_orders.swap_remove(index);
        }
        transaction.commit()
    }

    fn cancel_order(&mut self) -> Transaction {
        let order = self.open_orders.swap_remove(self.dice.random_range(0..self.open_orders.len()));
        let mut transaction = Transaction::begin();
        let id = order.id;
        for line in 1..=i64::from(order.lines) {
            transaction.add(
                Operation::Delete,
                "order_items",
                (id, Some(line)),
                format_args!("DELETE FROM shop.order_items WHERE order_id = {id} AND line = {line}"),
            );
        }
        transaction.add(
            Operation::Delete,
            "orders",
            (id, None),
            format_args!("DELETE FROM shop.orders WHERE id = {id}"),
        );
        transaction.commit()
    }

    fn change_price(&mut self) -> Transaction {
        let product = self.dice.random_range(0..PRODUCTS.len());
        let id = product + 1;
        let usual = PRODUCTS.get(product).map_or(0, |(_, cents)| *cents);
        let price = money(usual * self.dice.random_range(85..=115) / 100);
        let mut transaction = Transaction::begin();
        transaction.add(
            Operation::Update,
            "products",
            (i64::try_from(id).unwrap_or(0), None),
            format_args!("UPDATE shop.products SET price = {price} WHERE id = {id}"),
        );
        transaction.commit()
    }

    fn change_preferences(&mut self) -> Transaction {
        let id = self.dice.random_range(1..=self.customers);
        let language = ["en", "de", "pt", "fr"].choose(&mut self.dice).copied().unwrap_or_default();
        let newsletter = self.dice.random_bool(0.5);
        let mut transaction = Transaction::begin();
        transaction.add(
            Operation::Update,
            "customers",
            (id, None),
            format_args!(
                "UPDATE shop.customers SET preferences = '{{\"language\": \"{language}\", \"newsletter\": {newsletter}}}' WHERE id = {id}"
            ),
        );
        transaction.commit()
    }
}

fn money(cents: u32) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shop_does_all_kinds_of_business_and_never_an_empty_transaction() {
        let mut shop = Shop::open();
        let transactions: Vec<_> = (0..2_000).map(|_| shop.next_transaction()).collect();
        assert!(transactions.iter().all(|transaction| !transaction.changes.is_empty()));
        assert!(transactions.iter().any(|transaction| transaction.changes.len() > 4));
        for operation in [Operation::Insert, Operation::Update, Operation::Delete] {
            for table in ["orders", "order_items"] {
                let expected = !(operation == Operation::Update && table == "order_items");
                let mut changes = transactions.iter().flat_map(|transaction| &transaction.changes);
                assert_eq!(
                    changes.any(|c| c.operation == operation && c.table == table),
                    expected,
                    "{operation:?} {table}"
                );
            }
        }
        assert!(shop.open_orders.len() <= OPEN_ORDERS_MAX + 1);
    }
}
