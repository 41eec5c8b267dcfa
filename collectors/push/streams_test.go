package push

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"kemi"
)

func testIntake() (*Push, *intake) {
	p := &Push{cfg: DefaultConfig(), now: time.Now}
	return p, p.newIntake("test")
}

// TestStreamsShared: a stream is one value for all requests, however its labels were ordered; streams that look alike are kept apart, and refused ones are refused again.
func TestStreamsShared(t *testing.T) {
	p, in := testIntake()
	get := func(in *intake, pairs ...string) *stream {
		t.Helper()
		var ls kemi.Labels
		for i := 0; i < len(pairs); i += 2 {
			ls = append(ls, kemi.Label{Name: pairs[i], Value: pairs[i+1]})
		}
		s, err := in.shared(ls)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a := get(in, "app", "pay", "host", "a", "level", "warn")
	for _, other := range []*stream{
		get(in, "level", "warn", "host", "a", "app", "pay"), get(in, "host", "a", "app", "pay", "level", "warn"),
		get(p.newIntake("test"), "level", "warn", "host", "a", "app", "pay"), get(p.newIntake("test"), "app", "pay", "host", "a", "level", "warn"),
	} {
		if other != a {
			t.Errorf("another value for the same stream: %v", other.labels)
		}
	}
	if a.severity != kemi.SeverityWarn || a.labels.String() != `{app="pay", host="a", level="warn"}` {
		t.Errorf("%v of severity %v", a.labels, a.severity)
	}
	seen := map[*stream]string{}
	for _, pairs := range [][]string{
		{"a", "x", "b", "y"}, {"a", "x\x00b\x00y"}, {"a", "x\x01b\x01y"}, {"ax", "", "b", "y"}, {"a", "xb", "y", "z"}, {"a", "x", "by", "z"}, {"a", "x"},
	} {
		s := get(p.newIntake("test"), pairs...)
		if was, ok := seen[s]; ok {
			t.Errorf("%q is %q", pairs, was)
		}
		seen[s] = fmt.Sprintf("%q", pairs)
	}
	for range 2 {
		if _, err := p.newIntake("test").shared(kemi.Labels{{Name: "a", Value: "\xff"}}); err == nil {
			t.Error("a value that is not UTF-8 was taken")
		}
	}
}

// TestStreamsOwnMemory: what is kept of a stream is not part of the request.
func TestStreamsOwnMemory(t *testing.T) {
	_, in := testIntake()
	body := []byte("apppay")
	name, value := string(body[:3]), string(body[3:])
	ls := kemi.Labels{{Name: name, Value: value}}
	s, err := in.shared(ls)
	if err != nil {
		t.Fatal(err)
	}
	ls[0] = kemi.Label{Name: "other", Value: "stream"}
	if s.labels.String() != `{app="pay"}` {
		t.Errorf("it has changed: %v", s.labels)
	}
}

// TestStreamsBounded: however many streams come, no more are kept than their memory allows; one that is asked for again and again stays.
func TestStreamsBounded(t *testing.T) {
	var k streams
	keep := newStream(kemi.LabelsOf("app", "pay"))
	k.put("keep", keep)
	most := 0
	for i := range 200_000 {
		k.put(fmt.Sprintf("%0100d", i), newStream(kemi.LabelsOf("host", "h")))
		if i%1000 == 0 {
			if k.get([]byte("keep")) != keep {
				t.Fatalf("it is gone after %d others", i)
			}
			most = max(most, len(k.young)+len(k.old))
		}
	}
	if limit := 2 * maxStreamBytes / 400; most > limit || most < limit/3 {
		t.Errorf("%d are kept, want about %d", most, limit)
	}
	if k.get([]byte(strings.Repeat("0", 100))) != nil {
		t.Error("the first one is there still")
	}
}

// TestEscapedStrings: strings that had escapes lie behind one another in shared memory; each stays as it is, however long they are, and whatever fails in between.
func TestEscapedStrings(t *testing.T) {
	var text strings.Builder
	var want []string
	for i := range 400 {
		plain := strings.Repeat(fmt.Sprintf("%d 결제 ", i), 1+i*i%97*i%50)
		want = append(want, plain+"\n\"\\/\b\f\t\r\u20ac😀"+plain)
		fmt.Fprintf(&text, `"%s\n\"\\\/\b\f\t\r\u20ac\ud83d\ude00%s" `, plain, plain)
	}
	j := &jsonReader{s: text.String()}
	var got []string
	for j.more() {
		s, err := j.str()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, s)
		at, all := j.i, j.s
		j.s, j.i = `"begun \n and \q`, 0
		if _, err := j.str(); err == nil {
			t.Fatal("a broken string was taken")
		}
		j.s, j.i = all, at
	}
	if len(got) != len(want) {
		t.Fatalf("%d strings, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("string %d is %.100q, want %.100q", i, got[i], want[i])
		}
	}
	for _, bad := range []string{`"`, `"abc`, `"abc\`, `"abc\"`, `"\u12"`, `"\x"`, `"` + strings.Repeat("x", 100), `"` + strings.Repeat("x", 100) + `\`} {
		if _, err := (&jsonReader{s: bad}).str(); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// TestParseUTC: the quick way reads what the thorough one reads, and the same.
func TestParseUTC(t *testing.T) {
	for day := range 365 * 292 {
		at := time.Unix(int64(day)*86400+int64(day*7919%86400), int64(day)*104729%1e9).UTC()
		if at.Year() > 2261 {
			break
		}
		for _, form := range []string{"2006-01-02T15:04:05Z", "2006-01-02T15:04:05.000Z", time.RFC3339Nano} {
			text := at.Format(form)
			want, err := time.Parse(time.RFC3339Nano, text)
			if got, ok := parseUTC(text); err != nil || !ok || got != kemi.NanosOf(want) {
				t.Fatalf("%s: %d, %v; want %d, %v", text, got, ok, kemi.NanosOf(want), err)
			}
		}
	}
	for _, text := range []string{
		"2026-02-29T00:00:00Z", "2024-02-30T00:00:00Z", "2026-04-31T00:00:00Z", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-01-00T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z",
		"2026-01-01T00:00:60Z", "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00.1234567890Z", "2026-01-01T00:00:00,5Z", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:0xZ", "1969-12-31T23:59:59Z", "Z", "",
	} {
		if at, ok := parseUTC(text); ok {
			t.Errorf("%s is %d", text, at)
		}
	}
	if _, err := parseLogTime("2026-02-29T00:00:00Z"); err == nil {
		t.Error("a day that there is not")
	}
	if at, err := parseLogTime("1965-01-01T00:00:00Z"); err != nil || at >= 0 {
		t.Errorf("what the quick way does not read the other one does: %d, %v", at, err)
	}
}
