//! W3C trace context: the `traceparent` that ties spans of several processes into one trace.
//!
//! Only version 00 and its exact 55 characters are understood; anything else is as if nothing had been sent.
//! `tracestate` is not carried.
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tonic::metadata::{MetadataMap, MetadataValue};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The key in call metadata.
const KEY: &str = "traceparent";
/// `00-`, 32 hex digits, `-`, 16 hex digits, `-`, 2 hex digits.
const LENGTH: usize = 55;

/// Whether `text` is a traceparent that we take from others: `00-TRACE-SPAN-FLAGS` in lower-case hex, neither id zero.
pub fn is_valid(text: &str) -> bool {
    parse(text).is_some()
}

fn parse(text: &str) -> Option<SpanContext> {
    if text.len() != LENGTH || !text.is_ascii() {
        return None;
    }
    let mut parts = text.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (span, flags) = (parts.next()?, parts.next()?);
    let lengths = [version.len(), trace.len(), span.len(), flags.len()];
    let hex = |part: &str| {
        part.bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    if version != "00" || lengths != [2, 32, 16, 2] || ![trace, span, flags].into_iter().all(hex) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

fn format(context: &SpanContext) -> String {
    let flags = context.trace_flags() & TraceFlags::SAMPLED;
    format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        flags
    )
}

/// A new trace with random ids, for whoever starts something outside any span.
pub fn generate() -> String {
    // Zero is not an id; the chance of drawing it is not worth a loop.
    let trace = rand::random::<u128>().max(1);
    let span = rand::random::<u64>().max(1);
    format!("00-{trace:032x}-{span:016x}-01")
}

/// The traceparent of the current span; `None` outside of any trace. Spans of ours at level info and above are part
/// of traces; inside a finer one it is that of the nearest such span around it.
pub fn current_traceparent() -> Option<String> {
    [Span::current().context(), Context::current()]
        .iter()
        .map(|context| context.span().span_context().clone())
        .find(SpanContext::is_valid)
        .map(|context| format(&context))
}

/// Puts the current span's traceparent into the metadata of a call, or a new one outside of any trace.
pub fn inject(metadata: &mut MetadataMap) {
    let text = current_traceparent().unwrap_or_else(generate);
    if let Ok(value) = MetadataValue::try_from(text) {
        metadata.insert(KEY, value);
    }
}

/// The traceparent that came with a call, if it is valid.
pub fn traceparent_of(metadata: &MetadataMap) -> Option<&str> {
    let text = metadata.get(KEY)?.to_str().ok()?;
    is_valid(text).then_some(text)
}

/// The trace context that came with a call; empty when none did or it is not valid.
pub fn extract(metadata: &MetadataMap) -> Context {
    context_of(traceparent_of(metadata).and_then(parse))
}

fn context_of(parent: Option<SpanContext>) -> Context {
    match parent {
        Some(parent) => Context::new().with_remote_span_context(parent),
        None => Context::new(),
    }
}

/// Makes `span` a child of `traceparent`, and says whether that worked: not when the text is not valid, and not when
/// the span was entered before. Call it right after the span is made.
pub fn set_parent(span: &Span, traceparent: &str) -> bool {
    let parent = parse(traceparent);
    parent.is_some() && span.set_parent(context_of(parent)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::test_subscriber;
    use tracing::info_span;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn only_exact_traceparents_are_taken() {
        let zero_trace = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let zero_span = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", "0".repeat(16));
        for (text, valid) in [
            (GIVEN, true),
            (&GIVEN.replace("-01", "-00"), true),
            (&GIVEN.replace("-01", "-ff"), true),
            ("", false),
            (&GIVEN[..54], false),
            (&format!("{GIVEN}0"), false),
            (&format!("{GIVEN}-"), false),
            (&GIVEN.to_uppercase(), false),
            (&GIVEN.replace("00-", "01-"), false),
            (&GIVEN.replace("00-", "ff-"), false),
            (&GIVEN.replace("00-", "0g-"), false),
            (&GIVEN.replace('7', "g"), false),
            (&GIVEN.replace('-', "_"), false),
            (&GIVEN.replace("-b7", "b-7"), false),
            (&GIVEN.replace("-01", "-+1"), false),
            (&GIVEN.replace("-01", "-0\n"), false),
            (&GIVEN.replace("0a", "ä"), false),
            (&zero_trace, false),
            (&zero_span, false),
        ] {
            assert_eq!(is_valid(text), valid, "{text:?}");
        }
        for _ in 0..100 {
            let text = generate();
            assert!(is_valid(&text), "{text}");
            assert_ne!(text, generate());
        }
    }

    #[test]
    fn one_trace_runs_through_two_processes() {
        tracing::subscriber::with_default(test_subscriber(), || {
            assert_eq!(current_traceparent(), None);
            let mut metadata = MetadataMap::new();
            info_span!("submit").in_scope(|| inject(&mut metadata));
            let sent = traceparent_of(&metadata).expect("valid").to_owned();
            // The other side: its own span, the same trace.
            let span = info_span!("commit");
            assert!(set_parent(&span, &sent));
            let (inner, finer) = span.in_scope(|| {
                info_span!("launch").in_scope(|| {
                    let inner = current_traceparent().expect("in a trace");
                    (
                        inner,
                        tracing::debug_span!("detail").in_scope(current_traceparent),
                    )
                })
            });
            assert_eq!(
                finer.as_ref(),
                Some(&inner),
                "a finer span does not cut the trace"
            );
            assert_eq!(inner[..36], sent[..36]);
            assert_ne!(inner[36..52], sent[36..52]);
            assert_eq!(inner[52..], sent[52..]);
            let context = extract(&metadata);
            assert_eq!(format(context.span().span_context()), sent);
        });
    }

    #[test]
    fn what_others_send_cannot_break_a_trace() {
        tracing::subscriber::with_default(test_subscriber(), || {
            for bad in ["", "00-zz", "nonsense", &"0".repeat(4000)] {
                let mut metadata = MetadataMap::new();
                metadata.insert(KEY, bad.parse().expect("ascii"));
                assert_eq!(traceparent_of(&metadata), None);
                assert!(!extract(&metadata).span().span_context().is_valid());
                let span = info_span!("commit");
                assert!(!set_parent(&span, bad));
                assert!(is_valid(
                    &span
                        .in_scope(current_traceparent)
                        .expect("a trace of its own")
                ));
            }
            let late = info_span!("late");
            late.in_scope(current_traceparent).expect("started");
            assert!(!set_parent(&late, GIVEN), "too late");
            // Not sampled stays not sampled, with the same trace.
            let quiet = info_span!("quiet");
            assert!(set_parent(&quiet, &GIVEN.replace("-01", "-00")));
            let child = quiet.in_scope(current_traceparent).expect("in a trace");
            assert!(
                child[..36] == GIVEN[..36] && child.ends_with("-00"),
                "{child}"
            );
        });
    }

    #[test]
    fn without_any_subscriber_a_trace_still_begins() {
        tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), || {
            assert_eq!(current_traceparent(), None);
            let mut metadata = MetadataMap::new();
            inject(&mut metadata);
            assert!(traceparent_of(&metadata).is_some());
            assert!(!set_parent(&info_span!("none"), GIVEN));
        });
    }
}
