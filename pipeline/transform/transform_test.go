package transform

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.yaml.in/yaml/v3"

	"kemi"
)

var testNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func read(t testing.TB, text string) []Pipeline {
	t.Helper()
	var p []Pipeline
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&p); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return p
}

func ready(t testing.TB, steps string) *Transform {
	t.Helper()
	tr, err := New(read(t, "- {name: p, steps: ["+steps+"]}"), Options{Now: func() time.Time { return testNow }, MaxPast: 24 * time.Hour * 3650, MaxFuture: 24 * time.Hour})
	if err != nil {
		t.Fatalf("%s: %v", steps, err)
	}
	return tr
}

func record(body string) kemi.LogRecord {
	return kemi.LogRecord{At: 1, Stream: kemi.LabelsOf("app", "pay", "host", "web-1"), Attrs: kemi.LabelsOf("n", "7"), Body: body}
}

func show(r *kemi.LogRecord, kept bool, done []Done) string {
	var problems []string
	for _, d := range done {
		if d.Problem != "" {
			problems = append(problems, "! "+d.Problem)
		}
		if d.Dropped != "" {
			problems = append(problems, "dropped: "+d.Dropped)
		}
	}
	if !kept {
		return strings.Join(problems, " ")
	}
	s := fmt.Sprintf("%s %s %q", r.Stream, r.Attrs, r.Body)
	if r.At != 1 {
		s = r.At.Time().Format(time.RFC3339Nano) + " " + s
	}
	if r.Severity != 0 {
		s = fmt.Sprintf("%s/%d ", r.Severity, r.Severity) + s
	}
	if r.Project != "" {
		s = r.Project + ": " + s
	}
	return strings.Join(append([]string{s}, problems...), " ")
}

func TestSteps(t *testing.T) {
	for _, c := range []struct{ steps, body, want string }{
		{`parse: {as: json}`, `{"a": "x", "b": {"c": 1.50, "d": [1, {"e": null}]}, "n": 8, "none": null, "empty": "", "가": "나"}`,
			`{app="pay", host="web-1"} {a="x", b.c="1.50", b.d="[1, {\"e\": null}]", n="8", 가="나"} `},
		{`parse: {as: json, prefix: "j."}`, ` {"a": true}`, `{app="pay", host="web-1"} {j.a="true", n="7"} `},
		{`parse: {as: json}`, `[1]`, `{app="pay", host="web-1"} {n="7"} "[1]" ! not a JSON object`},
		{`parse: {as: json}`, `{"a": 1`, `{app="pay", host="web-1"} {n="7"} "{\"a\": 1" ! not a JSON object`},
		{`parse: {as: logfmt}`, `level=warn msg="결제 \"지연\"" word took=1.5s empty= x="a=b"`, `{app="pay", host="web-1"} {level="warn", msg="결제 \"지연\"", n="7", took="1.5s", x="a=b"} `},
		{`parse: {as: logfmt}`, `no pairs at all`, `{app="pay", host="web-1"} {n="7"} "no pairs at all" ! not logfmt: no name=value`},
		{`parse: {as: logfmt}`, `a="open`, `{app="pay", host="web-1"} {n="7"} "a=\"open" ! logfmt: the value of "a" has no end`},
		{`parse: {as: regexp, pattern: '^(?P<ip>\S+) (\w+) (?P<path>/\S*)'}`, `10.0.0.1 GET /health HTTP/1.1`, `{app="pay", host="web-1"} {ip="10.0.0.1", n="7", path="/health"} `},
		{`parse: {as: regexp, pattern: '^(?P<ip>\d+)'}`, `x`, `{app="pay", host="web-1"} {n="7"} "x" ! the pattern does not match`},
		{`parse: {as: json, field: missing}`, `x`, `{app="pay", host="web-1"} {n="7"} "x" ! no field missing`},
		{`{parse: {as: json}}, {parse: {as: timestamp, field: ts}}, {parse: {as: severity, field: lvl}}`, `{"ts": "2026-01-01T00:00:00.5+09:00", "lvl": "WARN"}`,
			`warn/13 2025-12-31T15:00:00.5Z {app="pay", host="web-1"} {n="7"} `},
		{`{parse: {as: json}}, {parse: {as: timestamp, field: ts}}, {parse: {as: severity, field: lvl}}`, `{"ts": 1767225600.25, "lvl": 50}`, `error/17 2026-01-01T00:00:00.25Z {app="pay", host="web-1"} {n="7"} `},
		{`{parse: {as: json}}, {parse: {as: timestamp, field: ts, layout: unix_ms}}, {parse: {as: severity, field: lvl, levels: {heikel: critical}}}`, `{"ts": 1767225600250, "lvl": "Heikel"}`,
			`error/18 2026-01-01T00:00:00.25Z {app="pay", host="web-1"} {n="7"} `},
		{`{parse: {as: json}}, {parse: {as: timestamp, field: ts, layout: "02.01.2006 15:04", timeZone: Asia/Seoul}}`, `{"ts": "01.01.2026 09:00"}`, `2026-01-01T00:00:00Z {app="pay", host="web-1"} {n="7"} `},
		{`{parse: {as: json}}, {parse: {as: timestamp, field: ts}}`, `{"ts": "2001-01-01T00:00:00Z"}`, `! field ts: "2001-01-01T00:00:00Z" is too far from now`},
		{`{parse: {as: json}}, {parse: {as: timestamp, field: ts}}`, `{"ts": "heute"}`, `! field ts: "heute" is not a time of layout auto`},
		{`{parse: {as: severity, field: n}}`, `x`, `debug/5 {app="pay", host="web-1"} {} "x"`},
		{`{parse: {as: severity, field: app}}`, `x`, `{app="pay", host="web-1"} {n="7"} "x" ! field app: "pay" is no severity`},
		{`route: {project: secure, labels: {tier: gold, host: ""}}`, `x`, `secure: {app="pay", tier="gold"} {n="7"} "x"`},
		{`{drop: {reason: health}, when: {body: /GET .health/}}`, `GET /health`, `dropped: health`},
		{`{drop: {reason: health}, when: {body: /GET .health/}}`, `GET /pay`, `{app="pay", host="web-1"} {n="7"} "GET /pay"`},
		{`{drop: {reason: x}, when: {app: "!pay"}}`, `x`, `{app="pay", host="web-1"} {n="7"} "x"`},
		{`{drop: {reason: x}, when: {app: pay, n: "!/^8/", missing: ""}}`, `x`, `dropped: x`},
		{`{drop: {reason: first}}, {drop: {reason: second}}`, `x`, `dropped: first`},
		{`rename: {n: count}`, `x`, `{app="pay", host="web-1"} {count="7"} "x"`},
		{`rename: {app: service}`, `x`, `{host="web-1", service="pay"} {n="7"} "x"`},
		{`{parse: {as: json}}, {rename: {msg: body}}`, `{"msg": "text"}`, `{app="pay", host="web-1"} {n="7"} "text"`},
		{`rename: {x: y}`, `x`, `{app="pay", host="web-1"} {n="7"} "x" ! no field x`},
		{`add: {env: prod, n: "9", app: other}`, `x`, `{app="pay", host="web-1"} {env="prod", n="7"} "x"`},
		{`sample: {rate: 1}`, `x`, `{app="pay", host="web-1"} {n="7"} "x"`},
		{`sample: {rate: 0}`, `x`, `dropped: sampled`},
		{`redact: {patterns: {order: 'order-(\d+)', user: 'u\d+'}}`, `order-123 of u77`, `{app="pay", host="web-1"} {n="7"} "order-*** of ***"`},
		{`redact: {detectors: [email], fields: [n]}`, `a@b.kr`, `{app="pay", host="web-1"} {n="7"} "a@b.kr"`},
	} {
		tr := ready(t, c.steps)
		r := record(c.body)
		before := record(c.body)
		attrs, stream := slices.Clone(r.Attrs), slices.Clone(r.Stream)
		done, kept := tr.Try(&r)
		got := show(&r, kept, done)
		if strings.HasSuffix(c.want, " ") {
			c.want += fmt.Sprintf("%q", c.body)
		}
		if got != c.want && !(strings.HasPrefix(c.want, "! ") && strings.HasSuffix(got, c.want)) {
			t.Errorf("%s: %s\n%s\nwant\n%s", c.steps, c.body, got, c.want)
		}
		if attrs.Compare(before.Attrs) != 0 || stream.Compare(before.Stream) != 0 {
			t.Errorf("%s: labels of the record before were changed", c.steps)
		}
	}
}

// TestShared looks that labels that records share are not changed under the others.
func TestShared(t *testing.T) {
	tr := ready(t, `{parse: {as: json}, when: {body: "/^{/"}}, {redact: {detectors: [email]}}, {route: {labels: {a: b}}, when: {body: "/^{/"}}, {rename: {n: m}, when: {body: "/^{/"}}`)
	stream, attrs := kemi.LabelsOf("app", "pay", "mail", "kim@shop.kr"), make(kemi.Labels, 1, 10)
	attrs[0] = kemi.Label{Name: "n", Value: "kim@shop.kr"}
	records := []kemi.LogRecord{{Stream: stream, Attrs: attrs, Body: `{"z": 1}`}, {Stream: stream, Attrs: attrs, Body: "plain"}}
	out := tr.Apply(slices.Clone(records))
	if len(out) != 2 || stream.String() != `{app="pay", mail="kim@shop.kr"}` || attrs.String() != `{n="kim@shop.kr"}` || attrs[:2][1].Name != "" {
		t.Errorf("%v %v", stream, attrs[:2])
	}
	if got := out[0].Stream.String() + out[0].Attrs.String() + out[1].Stream.String() + out[1].Attrs.String(); got != `{a="b", app="pay", mail="***@****.**"}{m="***@****.**", z="1"}{app="pay", mail="***@****.**"}{n="***@****.**"}` {
		t.Error(got)
	}
}

func TestDetectors(t *testing.T) {
	for _, c := range []struct{ detector, text, want string }{
		{"rrn", "번호 900101-1234568 끝", "번호 ******-******* 끝"}, // the checksum of the eighth is right
		{"rrn", "900101-1234567", "900101-1234567"},
		{"rrn", "9001011234568", "*************"},
		{"rrn", "1900101-1234568", "1900101-1234568"},
		{"rrn", "900101-12345680", "900101-12345680"},
		{"rrn", "901301-1234568", "901301-1234568"},
		{"rrn", "90-0101-1234568", "90-0101-1234568"},
		{"rrn-any", "900101-1234567", "******-*******"},
		{"rrn-any", "900101-9234567", "900101-9234567"},
		{"card", "card 4111 1111 1111 1111.", "card **** **** **** ****."},
		{"card", "4111-1111-1111-1111", "****-****-****-****"},
		{"card", "4111111111111111", "****************"},
		{"card", "378282246310005", "***************"},
		{"card", "4111111111111112", "4111111111111112"},
		{"card", "14111111111111111", "14111111111111111"},
		{"card", "7 4111111111111111", "7 ****************"},
		{"card", "2026-01-02 5500005555555559x", "2026-01-02 ****************x"},
		{"card", strings.Repeat("4", 100), strings.Repeat("4", 100)},
		{"phone", "call 010-1234-5678, 01012345678 or +82-10-1234-5678", "call ***-****-****, *********** or +**-**-****-****"},
		{"phone", "02-123-4567 031) 123-4567", "**-***-**** ***) ***-****"},
		{"phone", "1010-1234-56789 3.010-1234-5678", "1010-1234-56789 3.010-1234-5678"},
		{"phone", "+1 (415) 555-0100", "+* (***) ***-****"},
		{"phone", "2026-01-02 12:30:45 10.0.0.1 200 1234", "2026-01-02 12:30:45 10.0.0.1 200 1234"},
		{"email", "from kim.y+x@mail.shop.co.kr, @home a@b user@host", "from ***.*+*@****.****.**.**, @home a@b user@host"},
		{"email", "한글@도메인.kr.", "**@***.**."},
		{"token", "Authorization: Bearer abcdefgh12345", "Authorization: Bearer *************"},
		{"token", "jwt eyJhbGciOiJI.eyJzdWIiOiIx.sig", "jwt ************.************.***"},
		{"token", `password="hunter2!" user=kim secret: s3cr3t`, `password="*******!" user=kim secret: ******`},
		{"token", `{"api_key": "abcd1234", "tokens": 12}`, `{"api_key": "********", "tokens": 12}`},
		{"token", "AKIAIOSFODNN7EXAMPLE", "********************"},
	} {
		r := record(c.text)
		tr := ready(t, "redact: {detectors: ["+c.detector+"]}")
		tr.Apply([]kemi.LogRecord{r})
		if tr.Keep(&r); r.Body != c.want {
			t.Errorf("%s: %q: %q, want %q", c.detector, c.text, r.Body, c.want)
		}
	}
	r := record("card 4111 1111 1111 1111 kim@shop.kr")
	ready(t, "redact: {detectors: [card, email], keep: 4}").Keep(&r)
	if r.Body != "card **** **** **** 1111 ***@**op.kr" {
		t.Error(r.Body)
	}
}

func TestHash(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr := ready(t, "redact: {detectors: [email, card], with: hash, keyFile: "+key+"}")
	r := record("kim@shop.kr paid, lee@shop.kr too, kim@shop.kr again")
	tr.Keep(&r)
	words := strings.Fields(r.Body)
	if len(words) != 6 || words[0] != words[4] || words[0] == words[2] || !strings.HasPrefix(words[0], "<email:") || len(words[0]) != len("<email:>")+16 {
		t.Error(r.Body)
	}
}

func TestSample(t *testing.T) {
	tr := ready(t, "sample: {rate: 0.2, by: trace}")
	kept := 0
	for i := range 10_000 {
		var last bool
		for k := range 3 { // all of a trace alike
			r := record(fmt.Sprint("line ", k))
			r.Attrs = kemi.LabelsOf("trace", fmt.Sprint(i))
			if ok := tr.Keep(&r); k > 0 && ok != last {
				t.Fatalf("trace %d is kept in part", i)
			} else {
				last = ok
			}
		}
		if last {
			kept++
		}
	}
	if kept < 1800 || kept > 2200 {
		t.Errorf("%d of 10000 with a rate of 0.2", kept)
	}
}

// TestPipelines goes through all that match, in order, and counts.
func TestPipelines(t *testing.T) {
	reg := prometheus.NewRegistry()
	tr, err := New(read(t, `
- name: all
  steps: [{add: {seen: "yes"}}]
- name: pay
  match: {app: pay, host: /^web-/}
  steps: [{parse: {as: json}}, {drop: {reason: debug}, when: {lvl: debug}}]
- name: others
  match: {app: "!pay"}
  steps: [{route: {labels: {app: other}}}]
- name: after
  match: {app: other}
  steps: [{add: {after: "yes"}}]
`), Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	reg.MustRegister(tr)
	in := []kemi.LogRecord{record(`{"lvl": "debug"}`), record(`{"lvl": "info"}`), record("text"), {Stream: kemi.LabelsOf("app", "x"), Body: "x"}}
	var got []string
	for _, r := range tr.Apply(in) {
		got = append(got, r.Stream.String()+r.Attrs.String())
	}
	want := []string{`{app="pay", host="web-1"}{lvl="info", n="7", seen="yes"}`, `{app="pay", host="web-1"}{n="7", seen="yes"}`, `{app="other"}{after="yes", seen="yes"}`}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP kemi_transform_dropped_total Log records that a pipeline dropped.
# TYPE kemi_transform_dropped_total counter
kemi_transform_dropped_total{pipeline="pay",reason="debug"} 1
# HELP kemi_transform_failed_total Steps that left a log record as it was because they could not be done.
# TYPE kemi_transform_failed_total counter
kemi_transform_failed_total{pipeline="pay",step="1 parse json"} 1
# HELP kemi_transform_records_total Log records that a pipeline matched.
# TYPE kemi_transform_records_total counter
kemi_transform_records_total{pipeline="after"} 1
kemi_transform_records_total{pipeline="all"} 4
kemi_transform_records_total{pipeline="others"} 1
kemi_transform_records_total{pipeline="pay"} 3
`)); err != nil {
		t.Error(err)
	}
}

func TestBadConfig(t *testing.T) {
	for text, want := range map[string]string{
		`[{steps: [{drop: {reason: x}}]}]`:                                                   `pipeline "": name: must be given`,
		`[{name: a, steps: [{drop: {reason: x}}]}, {name: a, steps: [{drop: {reason: x}}]}]`: `pipeline "a": name: must be given, and another`,
		`[{name: a}]`:              `steps: 0 of them`,
		`[{name: a, steps: [{}]}]`: `step 1: must be one of parse`,
		`[{name: a, steps: [{drop: {reason: x}, add: {a: b}}]}]`:                                    `step 1: must be one of parse`,
		`[{name: a, match: {app: "/(/"}, steps: [{drop: {reason: x}}]}]`:                            `match: app: regular expression "("`,
		`[{name: a, steps: [{drop: {reason: x}, when: {app: "!/[/"}}]}]`:                            `step 1: when: app: regular expression "["`,
		`[{name: a, steps: [{drop: {}}]}]`:                                                          `drop: reason: is missing`,
		`[{name: a, steps: [{parse: {as: xml}}]}]`:                                                  `parse: as: "xml": must be json`,
		`[{name: a, steps: [{parse: {as: json, pattern: x}}]}]`:                                     `pattern: is for regexp only`,
		`[{name: a, steps: [{parse: {as: json, layout: x}}]}]`:                                      `layout: is for timestamp only`,
		`[{name: a, steps: [{parse: {as: regexp, pattern: x}}]}]`:                                   `has no named groups`,
		`[{name: a, steps: [{parse: {as: regexp, pattern: "("}}]}]`:                                 `pattern: regular expression`,
		`[{name: a, steps: [{parse: {as: timestamp}}]}]`:                                            `field: is missing`,
		`[{name: a, steps: [{parse: {as: timestamp, field: x, timeZone: Mars}}]}]`:                  `timeZone: "Mars"`,
		`[{name: a, steps: [{parse: {as: severity, field: x, levels: {a: b}}}]}]`:                   `levels: a: "b"`,
		`[{name: a, steps: [{redact: {}}]}]`:                                                        `must name detectors or patterns`,
		`[{name: a, steps: [{redact: {detectors: [dna]}}]}]`:                                        `detectors: "dna": must be rrn`,
		`[{name: a, steps: [{redact: {patterns: {x: "a*"}}}]}]`:                                     `matches what is empty`,
		`[{name: a, steps: [{redact: {detectors: [card], with: rot13}}]}]`:                          `with: "rot13": must be mask or hash`,
		`[{name: a, steps: [{redact: {detectors: [card], with: hash}}]}]`:                           `keyFile: is missing`,
		`[{name: a, steps: [{redact: {detectors: [card], keep: 9}}]}]`:                              `keep: 9: must be 0 to 8`,
		`[{name: a, steps: [{route: {}}]}]`:                                                         `must name a project or labels`,
		`[{name: a, steps: [{sample: {rate: 2}}]}]`:                                                 `rate: 2: must be 0 to 1`,
		`[{name: a, steps: [{rename: {a: a}}]}]`:                                                    `has that name already`,
		`[{name: a, steps: [{rename: {a: b, b: c}}]}]`:                                              `is renamed itself`,
		`[{name: a, steps: [{add: {body: x}}]}]`:                                                    `another name than body`,
		`[{name: a, steps: [{parse: {as: regexp, pattern: "` + strings.Repeat("x", 1001) + `"}}]}]`: `at most 1000`,
	} {
		if err := Validate(read(t, text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v, want %s", text, err, want)
		}
	}
	if _, err := New(read(t, `[{name: a, steps: [{redact: {detectors: [card], with: hash, keyFile: /no/such/file}}]}]`), Options{}); err == nil || !strings.Contains(err.Error(), "keyFile: open") {
		t.Error(err)
	}
}

// TestBadInput gives what nobody should write to every step.
func TestBadInput(t *testing.T) {
	var many []string
	for i := range 10_000 {
		many = append(many, fmt.Sprintf(`"k%d":%d`, i, i))
	}
	tr := ready(t, `{parse: {as: json}}, {parse: {as: logfmt}}, {parse: {as: regexp, pattern: '(?P<x>a+)b'}}, {parse: {as: severity, field: body}}, {redact: {detectors: [rrn, card, phone, email, token]}}`)
	for name, body := range map[string]string{
		"a line of 1 MB": strings.Repeat("가나다 ", 100_000), "10 000 fields": "{" + strings.Join(many, ",") + "}", "nesting": strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000),
		"binary": "\x00\xff\xfe" + strings.Repeat("\x80", 1000), "digits": strings.Repeat("1234 ", 200_000), "at signs": strings.Repeat("@", 1<<20), "letters": strings.Repeat("a", 1<<20), "a name": `{"` + strings.Repeat("k", 1<<16) + `": 1}`,
	} {
		r := record(body)
		if !tr.Keep(&r) || len(r.Attrs) > maxFields+1 {
			t.Errorf("%s: %d attributes", name, len(r.Attrs))
		}
	}
	r := record(strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000))
	ready(t, "parse: {as: json}").Keep(&r)
	if v := r.Attrs.Get(strings.Repeat("a.", maxDepth) + "a"); !strings.HasPrefix(v, `{"a":`) {
		t.Errorf("what lies deep: %s", r.Attrs)
	}
}

func FuzzSteps(f *testing.F) {
	for _, s := range []string{`{"a": {"b": 1}}`, `a=b c="d"`, "010-1234-5678 4111 1111 1111 1111 900101-1234568 kim@shop.kr Bearer abcdefgh", "\xff"} {
		f.Add(s)
	}
	tr := ready(f, `{parse: {as: json}}, {parse: {as: logfmt}}, {parse: {as: regexp, pattern: '(?P<x>\w+)\s(?P<y>.*)'}}, {parse: {as: timestamp, field: x}}, {parse: {as: severity, field: y}}`)
	hide := ready(f, `{redact: {detectors: [rrn, rrn-any, card, phone, email, token]}}`)
	f.Fuzz(func(t *testing.T, body string) {
		r := record(body)
		if !tr.Keep(&r) || r.Body != body {
			t.Fatalf("%q", r.Body)
		}
		for i := 1; i < len(r.Attrs); i++ {
			if r.Attrs[i-1].Name >= r.Attrs[i].Name {
				t.Fatalf("attributes %s", r.Attrs)
			}
		}
		if hide.Keep(&r); utf8.RuneCountInString(r.Body) != utf8.RuneCountInString(body) {
			t.Fatalf("%q is redacted to %q", body, r.Body)
		}
	})
}

// BenchmarkBadInput is what long lines cost that detectors may find slow.
func BenchmarkBadInput(b *testing.B) {
	tr := ready(b, `{redact: {detectors: [rrn, card, phone, email, token]}}`)
	for name, body := range map[string]string{"digits": strings.Repeat("1234 ", 200_000), "at signs": strings.Repeat("@", 1<<20), "letters": strings.Repeat("a", 1<<20)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				r := kemi.LogRecord{Body: body}
				tr.Keep(&r)
			}
		})
	}
}

func BenchmarkRedact(b *testing.B) {
	tr := ready(b, `{redact: {detectors: [rrn, card, phone, email]}}`)
	line := `2026-01-02T03:04:05.123Z INFO  [http-nio-8080-exec-12] com.shop.Pay - order 1234567 of user 9001 paid 15000 won in 123 ms from 10.12.13.14 trace=0af7651916cd43dd8448eb211c80319c`
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		r := kemi.LogRecord{Body: line}
		tr.Keep(&r)
	}
}
