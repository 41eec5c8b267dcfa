// Package graphite takes Graphite's plaintext protocol over TCP and UDP: lines of `path value time`, the path with or without
// tags (`disk.used;host=web-1;dc=icn1`).
//
// The path becomes the metric's name as it is, with its dots; tags become labels. The protocol has no answer: a line that cannot be
// read is counted, and the first of a connection is logged.
package graphite

import (
	"bytes"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"kemi"
	"kemi/collectors/listen"
	"kemi/collectors/push"
	"kemi/pipeline/codec"
)

const protocol = "graphite"

// Options are what the receiver works with. All are needed.
type Options struct {
	In  *push.Push
	Log *slog.Logger
	Now func() time.Time
}

// Open begins a session for a listener.
func Open(o Options) func(l *listen.Listener, peer string) listen.Session {
	return func(l *listen.Listener, peer string) listen.Session {
		return &session{Points: listen.NewPoints(o.In, l, protocol, peer, o.Log), o: o, peer: peer}
	}
}

type session struct {
	*listen.Points
	o    Options
	peer string
	told bool
}

// Line takes one line.
func (s *session) Line(line []byte) (string, bool) {
	s.Received(line)
	if err := s.take(line); err != nil {
		s.o.In.Refused(protocol, "lines", 1)
		if !s.told {
			s.told = true
			s.o.Log.Warn("line refused; further ones of this sender are counted only", "protocol", protocol, "from", s.peer, "line", clip(line), "err", err)
		}
	}
	return "", false
}

func clip(b []byte) string {
	const most = 200
	if len(b) > most {
		b = b[:most]
	}
	return strings.ToValidUTF8(string(b), "\ufffd")
}

// seed keeps what this protocol calls series apart from what others do.
const seed = 0x6a09_e667_f3bc_c908

func (s *session) take(line []byte) error {
	path, value, at, err := split(line)
	if err != nil || path == nil {
		return err
	}
	b, err := s.Builder()
	if err != nil {
		return err
	}
	t, err := s.time(at)
	if err != nil {
		return err
	}
	key := codec.KeyOf(path, seed)
	series := b.Known(key)
	if series == nil {
		ls, err := parsePath(path)
		if err != nil {
			return err
		}
		if series, err = b.Define(key, ls); err != nil {
			return err
		}
	}
	return b.Add(series, t, value, 0)
}

// time reads seconds, also with a fraction; nil, -1 and N mean now.
func (s *session) time(b []byte) (kemi.Millis, error) {
	switch t := unsafe.String(unsafe.SliceData(b), len(b)); t {
	case "", "-1", "N":
		return kemi.MillisOf(s.o.Now()), nil
	default:
		return parseTime(t)
	}
}

// split takes a line apart. A nil path means an empty line, a nil at that the sender leaves the time to us.
func split(line []byte) (path []byte, value float64, at []byte, err error) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 {
		return nil, 0, nil, nil
	}
	path, line = word(line)
	number, at := word(line)
	if len(number) == 0 || bytes.ContainsAny(at, " \t") {
		return nil, 0, nil, kemi.Errorf(kemi.ErrInvalid, "must be: path value time")
	}
	value, err = strconv.ParseFloat(unsafe.String(unsafe.SliceData(number), len(number)), 64)
	if err != nil || bytes.ContainsAny(number, "xX_") || math.IsNaN(value) {
		return nil, 0, nil, kemi.Errorf(kemi.ErrInvalid, "value %q: must be a number", clip(number))
	}
	return path, value, at, nil
}

// word is what stands before the first blanks, and what stands behind them.
func word(b []byte) (first, rest []byte) {
	for i, c := range b {
		if c == ' ' || c == '\t' {
			n := i + 1
			for n < len(b) && (b[n] == ' ' || b[n] == '\t') {
				n++
			}
			return b[:i], b[n:]
		}
	}
	return b, nil
}

func parseTime(s string) (kemi.Millis, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 && n < 1e12 {
		return kemi.Millis(n * 1000), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0 && f < 1e12) {
		return 0, kemi.Errorf(kemi.ErrInvalid, "time %q: must be seconds since 1970", clip([]byte(s)))
	}
	return kemi.Millis(math.Round(f * 1000)), nil
}

// parsePath is the labels of a path with or without tags.
func parsePath(path []byte) (kemi.Labels, error) {
	if !utf8.Valid(path) {
		return nil, kemi.Errorf(kemi.ErrInvalid, "path %q: must be UTF-8", clip(path))
	}
	name, tags, _ := strings.Cut(string(path), ";")
	if name == "" {
		return nil, kemi.Errorf(kemi.ErrInvalid, "path %q: has no name", clip(path))
	}
	ls := kemi.Labels{{Name: kemi.MetricName, Value: name}}
	for tag := range strings.SplitSeq(tags, ";") {
		if tag == "" {
			continue // a semicolon at the end
		}
		k, v, ok := strings.Cut(tag, "=")
		if !ok || k == "" || v == "" || k == kemi.MetricName {
			return nil, kemi.Errorf(kemi.ErrInvalid, "path %q: tag %q: must be name=value", clip(path), tag)
		}
		ls = append(ls, kemi.Label{Name: k, Value: v})
	}
	return ls, nil
}
