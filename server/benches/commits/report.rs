//! Tables in Markdown.

use std::{collections::BTreeSet, fmt::Display};

use crate::{
    Floors, Options, Results,
    measure::{Floor, Rounds, micros},
    vat::Cell,
};

pub fn print(results: &Results, options: &Options) {
    let Options { rounds, row_ms, .. } = options;
    println!("Medians of {rounds} rounds of {row_ms} ms a row.");
    let [.., most] = options.objects();
    if results.awake < most as u64 {
        println!(
            "NOT ALL AWAKE: of {most} objects {} were at the end, with the files that the vat may \
             open. Rows with {most} include putting objects to sleep and waking them.",
            results.awake
        );
    }
    print_floors(&results.floors.all());
    print_cells(results);
    print_threads(&results.cells);
    print_aims(results, options);
}

fn print_floors(floors: &[&Floor]) {
    print_header(&[
        "floor",
        "in flight",
        "calls/s",
        "rounds from-to",
        "median us",
        "p99 us",
    ]);
    for floor in floors {
        let name = &floor.name;
        match floor.rows() {
            Ok(rows) => {
                for (in_flight, rounds) in rows {
                    println!("| {name} | {in_flight} | {} |", speed_and_latency(rounds));
                }
            }
            Err(reason) => println!("| {name} | | NOT RUN: {reason} | | | |"),
        }
    }
}

fn print_cells(results: &Results) {
    print_header(&[
        "objects of the vat",
        "in flight",
        "calls/s",
        "rounds from-to",
        "median us",
        "p99 us",
        "bytes written/commit",
        "CPU us/commit",
    ]);
    for cell in &results.cells {
        println!(
            "| {} | {} | {} | {:.0} | {:.1} |",
            cell.objects,
            cell.in_flight,
            speed_and_latency(&cell.rounds),
            cell.usage.written_bytes as f64 / cell.rounds.calls() as f64,
            cell.cpu_micros(),
        );
    }
    let commits = results.commits as f64;
    println!(
        "| all, and what the server did between rows | | | | | | {:.0} | {:.1} |",
        results.overall.written_bytes as f64 / commits,
        micros(results.overall.cpu.total()) / commits,
    );
}

/// CPU time per commit and thread, as user + system.
fn print_threads(cells: &[Cell]) {
    let names: BTreeSet<&str> = cells
        .iter()
        .flat_map(|cell| cell.usage.threads.keys().map(String::as_str))
        .collect();
    let columns = names
        .iter()
        .map(|name| format!("thread `{name}`, us/commit user + system"));
    let header: Vec<String> = ["objects of the vat", "in flight"]
        .into_iter()
        .map(str::to_owned)
        .chain(columns)
        .collect();
    print_header(&header);
    for cell in cells {
        let commits = cell.rounds.calls() as f64;
        print!("| {} | {} |", cell.objects, cell.in_flight);
        for name in &names {
            let cpu = cell.usage.threads.get(*name).copied().unwrap_or_default();
            print!(
                " {:.1} + {:.1} |",
                micros(cpu.user) / commits,
                micros(cpu.system) / commits
            );
        }
        println!();
    }
}

fn print_aims(results: &Results, options: &Options) {
    let [one, some, most] = options.objects();
    let [alone, few, many] = options.in_flight();
    let Floors {
        overwrite,
        sqlite,
        log,
        ..
    } = &results.floors;
    let cell = |objects, in_flight| {
        let mut cells = results.cells.iter();
        let cell = cells.find(|cell| (cell.objects, cell.in_flight) == (objects, in_flight));
        cell.expect("a row for each")
    };
    let speed = |objects, in_flight| cell(objects, in_flight).rounds.calls_per_second();
    let cpu = |objects, in_flight| cell(objects, in_flight).cpu_micros();
    let in_syncs = |latency: f64| Some(latency / overwrite.row(1)?.median());
    let in_those_of = |floor: &Floor, in_flight| {
        Some(speed(some, few) / floor.row(in_flight)?.calls_per_second())
    };
    print_header(&["aim", "wanted", "measured"]);
    let print_aim = |aim: &str, wanted: &str, measured: Option<f64>| {
        let measured = measured.map_or("NOT RUN".to_owned(), |ratio| format!("{ratio:.2}"));
        println!("| {aim} | {wanted} | {measured} |");
    };
    print_aim(
        "one caller alone: median latency, in that of `fdatasync` of 4 KiB overwritten",
        "at most 1.5",
        in_syncs(cell(one, alone).rounds.median()),
    );
    print_aim(
        "the same of the bare log server",
        "",
        log.row(alone).and_then(|row| in_syncs(row.median())),
    );
    print_aim(
        &format!("{some} objects, {few} in flight: calls/s, in those of bare SQLite"),
        "at least 10",
        in_those_of(sqlite, 1),
    );
    print_aim(
        &format!("{some} objects, {few} in flight: calls/s, in those of the bare log server"),
        "at least 0.4",
        in_those_of(log, few),
    );
    for in_flight in [few, many] {
        print_aim(
            &format!("{in_flight} in flight: time per call, {most} objects in {some}"),
            "at most 1.5",
            Some(speed(some, in_flight) / speed(most, in_flight)),
        );
        print_aim(
            &format!("{in_flight} in flight: CPU time per call, {most} objects in {some}"),
            "at most 1.5",
            Some(cpu(most, in_flight) / cpu(some, in_flight)),
        );
    }
}

fn speed_and_latency(rounds: &Rounds) -> String {
    let (slowest, fastest) = rounds.slowest_and_fastest();
    format!(
        "{:.0} | {slowest:.0}-{fastest:.0} | {:.0} | {:.0}",
        rounds.calls_per_second(),
        rounds.median(),
        rounds.p99()
    )
}

/// The head of a table whose first column is text, and the others numbers.
fn print_header(columns: &[impl Display]) {
    println!();
    for column in columns {
        print!("| {column} ");
    }
    println!("|");
    print!("| --- |");
    for _ in 1..columns.len() {
        print!(" ---: |");
    }
    println!();
}
