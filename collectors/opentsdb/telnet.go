// Package opentsdb speaks the telnet of an OpenTSDB 2.4 daemon as far as senders use it: put, version, help, exit.
//
// A put that is wrong is answered with a line in the daemon's words, one that is good with nothing, as the daemon does: that it is durable is
// not said, and cannot be. A sender that needs to know uses /api/put?sync over HTTP, which collectors/push serves.
package opentsdb

import (
	"bytes"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"

	"kemi"
	"kemi/collectors/listen"
	"kemi/collectors/push"
	"kemi/pipeline/codec"
)

const protocol = "opentsdb-telnet"

// Options are what the receiver works with. All are needed.
type Options struct {
	In      *push.Push
	Log     *slog.Logger
	Version string
}

// Open begins a session for a listener.
func Open(o Options) func(l *listen.Listener, peer string) listen.Session {
	return func(l *listen.Listener, peer string) listen.Session {
		return &session{Points: listen.NewPoints(o.In, l, protocol, peer, o.Log), o: o}
	}
}

type session struct {
	*listen.Points
	o    Options
	key  []byte
	tags kemi.Labels
}

// Line answers one command.
func (s *session) Line(line []byte) (string, bool) {
	s.Received(line)
	command, rest, _ := bytes.Cut(line, []byte(" "))
	switch string(command) {
	case "put":
		if err := s.put(rest); err != nil {
			s.o.In.Refused(protocol, "lines", 1)
			return "put: " + err.Error() + "\n", false
		}
		return "", false
	case "version":
		return "KEMI " + s.o.Version + ", which speaks the telnet of net.opentsdb 2.4.1\n", false
	case "help":
		return "available commands: exit help put version\n", false
	case "exit":
		return "", true
	}
	if len(bytes.TrimSpace(line)) == 0 {
		return "", false
	}
	s.o.In.Refused(protocol, "lines", 1) // a put after a blank, too: nobody is to think that it was taken
	return "unknown command: " + clip(command) + ".  Try `help'.\n", false
}

func clip(b []byte) string {
	const most = 200
	if len(b) > most {
		b = b[:most]
	}
	return strings.ToValidUTF8(string(b), "\ufffd")
}

// putError is what is wrong with a put, in the words of the daemon where it has some.
type putError struct{ kind, text string }

func (e *putError) Error() string { return e.kind + ": " + e.text }

func illegal(text string) error { return &putError{"illegal argument", text} }

func notNumber(b []byte) error {
	return &putError{"invalid value", "not a number: " + strconv.Quote(clip(b))}
}

// seed keeps what this protocol calls series apart from what others do.
const seed = 0xbb67_ae85_84ca_a73b

// put takes `metric time value tag=value …`.
func (s *session) put(rest []byte) error {
	var words [3][]byte
	tags := rest
	n := 0
	for ; n < len(words) && len(tags) > 0; n++ {
		words[n], tags, _ = bytes.Cut(tags, []byte(" "))
	}
	tags = bytes.Trim(tags, " ")
	metric, at, value := words[0], words[1], words[2]
	if len(tags) == 0 {
		return illegal("not enough arguments (need least 4, got " + strconv.Itoa(n) + ")")
	}
	if len(metric) == 0 {
		return illegal("empty metric name")
	}
	t, err := parseTime(at)
	if err != nil {
		return err
	}
	v, err := parseValue(value)
	if err != nil {
		return err
	}
	b, err := s.Builder()
	if err != nil {
		return &putError{"not taken", err.Error()}
	}
	s.key = append(codec.AppendName(s.key[:0], metric), tags...)
	key := codec.KeyOf(s.key, seed)
	series := b.Known(key)
	if series == nil {
		if err := s.parseTags(metric, tags); err != nil {
			return err
		}
		if series, err = b.Define(key, s.tags); err != nil {
			return illegal(err.Error())
		}
	}
	if err := b.Add(series, t, v, 0); err != nil {
		return illegal(err.Error())
	}
	return nil
}

// parseTags sets s.tags to the labels.
func (s *session) parseTags(metric, tags []byte) error {
	if !utf8.Valid(metric) || !utf8.Valid(tags) {
		return illegal("not valid UTF-8: " + clip(metric))
	}
	if bad := s.o.In.IllegalInTSD(string(metric)); bad != "" {
		return illegal("Invalid metric name (\"" + clip(metric) + "\"): illegal character: " + bad)
	}
	s.tags = append(s.tags[:0], kemi.Label{Name: kemi.MetricName, Value: string(metric)})
	for tag := range bytes.SplitSeq(tags, []byte(" ")) {
		if len(tag) == 0 {
			continue
		}
		k, v, ok := bytes.Cut(tag, []byte("="))
		if !ok || len(k) == 0 || len(v) == 0 || bytes.IndexByte(v, '=') >= 0 || string(k) == kemi.MetricName {
			return illegal("invalid tag: " + clip(tag))
		}
		if bad := s.o.In.IllegalInTSD(string(k)); bad != "" {
			return illegal("Invalid tag name with value [" + clip(v) + "] (\"" + clip(k) + "\"): illegal character: " + bad)
		}
		if bad := s.o.In.IllegalInTSD(string(v)); bad != "" {
			return illegal("Invalid tag value with key [" + clip(k) + "] (\"" + clip(v) + "\"): illegal character: " + bad)
		}
		for _, other := range s.tags[1:] {
			if other.Name == string(k) {
				if other.Value == string(v) {
					k = nil // the same again is nothing new, as the daemon has it
					break
				}
				return illegal("duplicate tag: " + clip(tag) + ", tags=" + s.tags[1:].String())
			}
		}
		if k != nil {
			s.tags = append(s.tags, kemi.Label{Name: string(k), Value: string(v)})
		}
	}
	return nil
}

// parseTime reads seconds, also with a fraction, or milliseconds.
func parseTime(b []byte) (kemi.Millis, error) {
	s := unsafe.String(unsafe.SliceData(b), len(b))
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err == nil && n <= 0:
		return 0, illegal("invalid timestamp: " + clip(b))
	case err == nil && n <= math.MaxUint32:
		return kemi.Millis(n * 1000), nil
	case err == nil:
		return kemi.Millis(n), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !decimal(b) {
		return 0, notNumber(b)
	}
	if f <= 0 || f > math.MaxUint32 {
		return 0, illegal("invalid timestamp: " + clip(b))
	}
	return kemi.Millis(math.Round(f * 1000)), nil
}

func parseValue(b []byte) (float64, error) {
	if len(b) == 0 {
		return 0, illegal("empty value")
	}
	v, err := strconv.ParseFloat(unsafe.String(unsafe.SliceData(b), len(b)), 64)
	if err != nil || !decimal(b) {
		return 0, notNumber(b)
	}
	return v, nil
}

// decimal tells whether b has the characters of a decimal number only: no hexadecimal, no NaN, no infinity.
func decimal(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c != 'e' && c != 'E' {
			return false
		}
	}
	return true
}
