package statsd

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"kemi"
)

// DogStatsD has lines that are no metrics: events, `_e{5,4}:title|text|…`, and service checks, `_sc|name|status|…`. They become log records: a text with a time
// and a source. A check's status is its severity.

// maxEvents is how many records may wait to be written; more are refused and counted.
const maxEvents = 10_000

// streamTags are the tags that say where something comes from, and so are of the stream; others are attributes of the record.
var streamTags = map[string]bool{"host": true, "service": true, "env": true, "version": true, "kube_namespace": true, "kube_deployment": true, "container_name": true}

// isEvent tells whether a line is an event or a service check.
func isEvent(line []byte) bool {
	return bytes.HasPrefix(line, []byte("_e{")) || bytes.HasPrefix(line, []byte("_sc|"))
}

// parseEvent reads such a line.
func parseEvent(line []byte, now time.Time) (kemi.LogRecord, error) {
	r := kemi.LogRecord{At: kemi.NanosOf(now), Severity: kemi.SeverityInfo}
	if !utf8.Valid(line) {
		return r, bad("%q: must be UTF-8", clip(line))
	}
	var err error
	if rest, ok := strings.CutPrefix(string(line), "_e{"); ok {
		err = eventOf(&r, rest)
	} else {
		err = checkOf(&r, string(line[len("_sc|"):]))
	}
	return r, err
}

// eventOf reads `5,4}:title|text|d:1777777770|h:web-1|p:low|t:error|k:key|s:source|#tags`.
func eventOf(r *kemi.LogRecord, s string) error {
	wrong := bad("event %q: must be _e{bytes of title,bytes of text}:title|text", clip([]byte(s)))
	lengths, rest, ok := strings.Cut(s, "}:")
	first, second, two := strings.Cut(lengths, ",")
	title, err := strconv.Atoi(first)
	text, err2 := strconv.Atoi(second)
	if !ok || !two || err != nil || err2 != nil || title < 1 || text < 0 || title > len(rest)-1 || text > len(rest)-title-1 || rest[title] != '|' {
		return wrong
	}
	r.Body = rest[:title]
	if text > 0 {
		r.Body += "\n" + strings.ReplaceAll(rest[title+1:title+1+text], `\n`, "\n")
	}
	rest = rest[title+1+text:]
	if rest != "" && rest[0] != '|' {
		return wrong
	}
	attr := func(name, value string) { r.Attrs = append(r.Attrs, kemi.Label{Name: name, Value: value}) }
	err = parts(r, rest, func(key, value string) bool {
		switch key {
		case "p":
			attr("priority", value)
		case "k":
			attr("aggregation_key", value)
		case "s":
			attr("source_type", value)
		case "t":
			attr("alert_type", value)
			switch value {
			case "error":
				r.Severity = kemi.SeverityError
			case "warning":
				r.Severity = kemi.SeverityWarn
			case "info", "success":
			default:
				return false
			}
		default:
			return false
		}
		return true
	})
	attr("kind", "event")
	return finish(r, err)
}

// checkOf reads `name|status|d:1777777770|h:web-1|#tags|m:message`.
func checkOf(r *kemi.LogRecord, s string) error {
	name, rest, ok := strings.Cut(s, "|")
	status, _, _ := strings.Cut(rest, "|")
	if !ok || name == "" || len(status) != 1 || status[0] < '0' || status[0] > '3' {
		return bad("service check %q: must be _sc|name|status, the status 0 (ok), 1 (warning), 2 (critical) or 3 (unknown)", clip([]byte(s)))
	}
	n := status[0] - '0'
	r.Severity = [...]kemi.Severity{kemi.SeverityInfo, kemi.SeverityWarn, kemi.SeverityError, kemi.SeverityWarn}[n]
	word := [...]string{"ok", "warning", "critical", "unknown"}[n]
	r.Body = name + " is " + word
	rest = rest[1:]
	if rest != "" {
		// The message comes last, and may have anything in it.
		if before, message, found := strings.Cut(rest, "|m:"); found {
			rest = before
			r.Body += ": " + strings.ReplaceAll(strings.ReplaceAll(message, `m\:`, "m:"), `\n`, "\n")
		}
	}
	err := parts(r, rest, func(string, string) bool { return false })
	r.Attrs = append(r.Attrs, kemi.Label{Name: "kind", Value: "service_check"}, kemi.Label{Name: "check", Value: name}, kemi.Label{Name: "status", Value: word})
	return finish(r, err)
}

// parts reads what events and checks have in common, each after a |; other takes the rest.
func parts(r *kemi.LogRecord, s string, other func(key, value string) bool) error {
	for s != "" {
		var part string
		part, s, _ = strings.Cut(s[1:], "|")
		if s != "" {
			s = "|" + s
		}
		if tags, ok := strings.CutPrefix(part, "#"); ok {
			for tag := range strings.SplitSeq(tags, ",") {
				k, v, ok := strings.Cut(tag, ":")
				if !ok {
					v = "true" // a tag that is only there or not
				}
				switch {
				case tag == "":
				case k == "":
					return bad("tag %q: has no name", clip([]byte(tag)))
				case streamTags[k] && !(k == "host" && r.Stream.Has("host")): // h: says it better
					r.Stream = r.Stream.With(k, v)
				default:
					r.Attrs = append(r.Attrs, kemi.Label{Name: k, Value: v})
				}
			}
			continue
		}
		key, value, _ := strings.Cut(part, ":")
		switch key {
		case "d":
			seconds, err := strconv.ParseInt(value, 10, 64)
			if err != nil || seconds <= 0 || seconds > math.MaxInt64/int64(time.Second) {
				return bad("time %q: must be seconds since 1970", clip([]byte(value)))
			}
			r.At = kemi.Nanos(seconds) * kemi.Nanos(time.Second)
		case "h":
			if value != "" {
				r.Stream = r.Stream.With("host", value)
			}
		case "c", "e", "card": // where the sender runs: for an agent that adds tags of the container
		default:
			if !other(key, value) {
				return bad("%q: is not known in an event or a service check", clip([]byte(part)))
			}
		}
	}
	return nil
}

// finish puts in order what was read.
func finish(r *kemi.LogRecord, err error) error {
	if r.Stream.Get("service") == "" {
		r.Stream = r.Stream.With("service", protocol)
	}
	r.Attrs = r.Attrs.Normalize()
	return err
}

// events are log records that wait to be written.
type events struct {
	mu      sync.Mutex
	waiting []kemi.LogRecord
}

// add takes a record, unless too many wait already.
func (e *events) add(r kemi.LogRecord) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.waiting) >= maxEvents {
		return false
	}
	e.waiting = append(e.waiting, r)
	return true
}

func (e *events) take() []kemi.LogRecord {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := e.waiting
	e.waiting = nil
	return all
}

// again puts records back that could not be written, before those that have come since; it gives how many there was no room for.
func (e *events) again(all []kemi.LogRecord) (lost int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = append(all, e.waiting...)
	if lost = len(e.waiting) - maxEvents; lost <= 0 {
		return 0
	}
	e.waiting = e.waiting[:maxEvents]
	return lost
}

// writeEvents writes what waits. What the log cannot take now is tried again.
func (r *Receiver) writeEvents(ctx context.Context) {
	all := r.events.take()
	if len(all) == 0 {
		return
	}
	id, err := r.l.Identity()
	if err == nil {
		err = r.o.In.WriteLogs(ctx, id, protocol, all, "")
	}
	switch {
	case err == nil:
		return
	case errors.Is(err, kemi.ErrInvalid): // what was wrong with some of them was counted; the others are durable
	case errors.Is(err, kemi.ErrUnavailable):
		r.o.In.Refused(protocol, "events", r.events.again(all))
	default:
		r.o.In.Refused(protocol, "events", len(all))
	}
	r.o.Log.Warn("events were not taken, or not all", "protocol", protocol, "events", len(all), "err", err)
}
