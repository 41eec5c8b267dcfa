package syslog

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"kemi"
)

var testNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func seoul(t testing.TB) *time.Location {
	z, err := time.LoadLocation("Asia/Seoul")
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestParse(t *testing.T) {
	zone := seoul(t)
	for frame, want := range map[string]string{
		// RFC 5424's own examples.
		"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \xef\xbb\xbf'su root' failed for lonvick on /dev/pts/8":                                                        `4.2 2003-10-11T22:14:15.003Z "mymachine.example.com" "su" {msgid="ID47"} "'su root' failed for lonvick on /dev/pts/8"`,
		"<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time to make the do-nuts.":                                                                            `20.5 2003-08-24T12:14:15.000003Z "192.0.2.1" "myproc" {procid="8710"} "%% It's time to make the do-nuts."`,
		`<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [exampleSDID@32473 iut="3" eventSource="Application" eventID="1011"][examplePriority@32473 class="high"]`: `20.5 2003-10-11T22:14:15.003Z "mymachine.example.com" "evntslog" {examplePriority@32473.class="high", exampleSDID@32473.eventID="1011", exampleSDID@32473.eventSource="Application", exampleSDID@32473.iut="3", msgid="ID47"} ""`,
		`<0>1 - - - - - - `:  `0.0 - "" "" {} ""`,
		`<191>1 - - - - - -`: `23.7 - "" "" {} ""`,
		`<13>1 2026-02-29T00:00:00Z h a - - - no such day`: `1.5 time "2026-02-29T00:00:00Z" "h" "a" {} "no such day"`,
		`<13>1 2024-02-29T23:59:60.5+09:00 h a - - - leap`: `1.5 2024-02-29T15:00:00.5Z "h" "a" {} "leap"`,
		`<13>1 - h a - - [x a="1" a="2" a="3"] twice`:      `1.5 - "h" "a" {x.a="1", x.a.2="2", x.a.3="3"} "twice"`,
		`<13>1 - h a - - [x a="q\"b\\s\]e\n"][y] esc`:      `1.5 - "h" "a" {x.a="q\"b\\s]e\\n", y="true"} "esc"`,
		`<13>1 - h a - - [x a="]"] in`:                     `1.5 - "h" "a" {x.a="]"} "in"`,
		`<13>1 - 호스트 앱 - - - 결제 실패`:                        `1.5 - "호스트" "앱" {} "결제 실패"`,
		"<13>1 - h a - - - line\none":                      `1.5 - "h" "a" {} "line\none"`,
		"<13>1 - h a - - - \xff\x00":                       `1.5 - "h" "a" {} "\xff\x00"`,
		// RFC 3164, in local time, in the year nearest to now.
		`<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8`: `4.2 2025-10-11T13:14:15Z "mymachine" "su" {} "'su root' failed for lonvick on /dev/pts/8"`,
		`<86>Jan  2 03:04:05 web-1 sshd[4721]: Failed password: for root`:              `10.6 2026-01-01T18:04:05Z "web-1" "sshd" {procid="4721"} "Failed password: for root"`,
		`<13>Feb 28 2024 12:00:00.25: fw-1 %ASA-6-302013: Built`:                       `1.5 2024-02-28T03:00:00.25Z "fw-1" "%ASA-6-302013" {} "Built"`,
		`<13>2026-01-01T00:00:00.5+09:00 web-1 app: iso`:                               `1.5 2025-12-31T15:00:00.5Z "web-1" "app" {} "iso"`,
		`<13>Jan  1 00:00:00 cron[7]: no host`:                                         `1.5 2025-12-31T15:00:00Z "" "cron" {procid="7"} "no host"`,
		`<13>Jan  1 00:00:00 web-1 free words here`:                                    `1.5 2025-12-31T15:00:00Z "web-1" "" {} "free words here"`,
		`<13>Jan  1 00:00:00 web-1 {"a": 1}`:                                           `1.5 2025-12-31T15:00:00Z "web-1" "" {} "{\"a\": 1}"`,
		`<13>Jan  1 00:00:00 hello`:                                                    `1.5 2025-12-31T15:00:00Z "" "" {} "hello"`,
		`<13>Jan  1 00:00:00 web-1 app[no end: text`:                                   `1.5 2025-12-31T15:00:00Z "web-1" "" {} "app[no end: text"`,
		// What is no syslog is kept.
		`plain text`:                    `problem no priority "plain text"`,
		`<192>1 - - - - - -`:            `problem no priority "<192>1 - - - - - -"`,
		`<>1 - - - - - -`:               `problem no priority "<>1 - - - - - -"`,
		`<13`:                           `problem no priority "<13"`,
		`<13>`:                          `problem RFC 3164 "<13>"`,
		`<13>1 - h`:                     `problem RFC 5424 "<13>1 - h"`,
		`<13>1 - h a - -`:               `problem RFC 5424 "<13>1 - h a - -"`,
		`<13>1 - h a - - [x`:            `problem RFC 5424 "<13>1 - h a - - [x"`,
		`<13>1 - h a - - [x a=1] t`:     `problem RFC 5424 "<13>1 - h a - - [x a=1] t"`,
		`<13>1 - h a - - [x a="1"]t`:    `problem RFC 5424 "<13>1 - h a - - [x a=\"1\"]t"`,
		`<13>1 - h a - - [x a="1" b] t`: `problem RFC 5424 "<13>1 - h a - - [x a=\"1\" b] t"`,
		`<13>1 - h a - - [] t`:          `problem RFC 5424 "<13>1 - h a - - [] t"`,
		"<13>1 - h\xff a - - - t":       `problem host or application "<13>1 - h\xff a - - - t"`,
		`<13>Foo  1 00:00:00 h a: t`:    `problem RFC 3164 "<13>Foo  1 00:00:00 h a: t"`,
		`<13>Jan 32 00:00:00 h a: t`:    `problem RFC 3164 "<13>Jan 32 00:00:00 h a: t"`,
		`<189>29: *Mar  1 18:46:11: %SYS-5-CONFIG_I`: `problem RFC 3164 "<189>29: *Mar  1 18:46:11: %SYS-5-CONFIG_I"`,
	} {
		m := parse([]byte(frame), testNow, zone)
		attrs, problem := m.attributes(100)
		if problem != "" {
			m = message{text: []byte(frame), problem: problem}
		}
		at := "-"
		if m.at != 0 {
			at = m.at.Time().Format(time.RFC3339Nano)
		} else if m.when != nil {
			at = fmt.Sprintf("time %q", m.when)
		}
		got := fmt.Sprintf("%d.%d %s %q %q %s %q", m.facility, m.level, at, m.host, m.app, attrs, m.text)
		if m.problem != "" {
			kind, _, _ := strings.Cut(m.problem, ":")
			kind, _, _ = strings.Cut(kind, " is")
			got = fmt.Sprintf("problem %s %q", kind, m.text)
		}
		if got != want {
			t.Errorf("%q:\n%s\nwant\n%s", frame, got, want)
		}
	}
}

// TestTimes compares with the standard library.
func TestTimes(t *testing.T) {
	for _, at := range []string{
		"1970-01-01T00:00:00Z", "1999-12-31T23:59:59.999999999Z", "2000-02-29T12:00:00+14:00", "2100-02-28T23:00:00-12:30", "2026-12-01T15:00:00.1+09:00", "2261-12-31T00:00:00Z",
	} {
		want, err := time.Parse(time.RFC3339Nano, at)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := rfc3339([]byte(at)); !ok || got != kemi.NanosOf(want) {
			t.Errorf("%s: %v %v", at, got.Time(), ok)
		}
	}
	for day := time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC); day.Year() < 2110; day = day.AddDate(0, 0, 1) {
		if got := daysSince1970(day.Year(), int(day.Month()), day.Day()); got != int(day.Unix()/86400) {
			t.Fatalf("%s: %d", day, got)
		}
	}
	for _, at := range []string{"", "2026-01-01 00:00:00Z", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-01-00T00:00:00Z", "2026-04-31T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z", "2026-01-01T00:00:61Z",
		"2026-01-01T00:00:00", "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00+0900", "2026-01-01T00:00:00+24:00", "0026-01-01T00:00:00Z", "9999-01-01T00:00:00Z", "２026-01-01T00:00:00Z"} {
		if got, ok := rfc3339([]byte(at)); ok {
			t.Errorf("%s: %v", at, got.Time())
		}
	}
}

// cut cuts data that come in pieces of n bytes as a connection does.
func cut(data []byte, n, most int) (frames []string, end string) {
	f := framing{max: most}
	var buf []byte
	for len(data) > 0 {
		k := min(n, len(data), most+1-len(buf))
		buf, data = append(buf, data[:k]...), data[k:]
		for {
			got := f.Next(buf, len(buf) > most)
			buf = buf[got.Taken:]
			if got.Whole {
				frames = append(frames, fmt.Sprintf("%d:%s", f.part, got.Bytes))
			} else if got.Taken == 0 {
				break
			}
		}
	}
	last := f.Last(buf)
	return frames, fmt.Sprintf("%d:%s:%v", f.part, last, f.partial)
}

func TestFraming(t *testing.T) {
	for _, c := range []struct{ data, want string }{
		{"<1>a\n<2>b\r\n<3>c", "0:<1>a|0:<2>b\r||0:<3>c:false"},
		{"4 <1>a5 <2>b\n4 <3>c", "0:<1>a|0:<2>b\n|0:<3>c||0::true"},
		{"4 <1>a\n5 <2>bb\n4 <3", "0:<1>a|0:<2>bb||0:<3:true"},
		{"12 monkeys\n4 <1>\n", "0:12 monkeys|0:4 <1>||0::false"},
		{"2026-01-01 x\ny\n", "0:2026-01-01 x|0:y||0::false"},
		{"0123456789abcdefghijklmnopqrstuvwxyz0123456789\nshort\n", "1:0123456789abcdefghijkl|2:mnopqrstuvwxyz01234567|3:89|0:short||0::false"},
		{"0123456789abcdefghijkl\nshort\n", "0:0123456789abcdefghijkl|0:short||0::false"},
		{"36 <1>456789abcdefghijklmnopqrstuvwxyz04 <2>b", "1:<1>456789abc|2:defghijklmnopqrstuvwxy|3:z0|0:<2>b||0::true"},
		{"12 <1>456789abc4 <2>b", "0:<1>456789abc|0:<2>b||0::true"},
		{"18 <1>456789abcdef", "1:<1>456789abc||2:def:true"},
		{"4 <1>axx\n4 <2>b", "0:<1>a|0:xx|0:<2>b||0::true"},
		{"4 <1>a 4 <2>b\n4 <3>c", "0:<1>a|0: 4 <2>b|0:<3>c||0::true"},
		{"999999999 <1>0123456789", "1:<1>012345678||2:9:true"},
		{"9999999999 <1>\n", "0:9999999999 <1>||0::false"},
		{"12", "||0:12:false"},
		{"", "||0::false"},
	} {
		const most = 22
		for n := 1; n <= most; n++ {
			frames, end := cut([]byte(c.data), n, most)
			if got := strings.Join(frames, "|") + "||" + end; got != c.want {
				t.Errorf("%q in pieces of %d:\n%q\nwant\n%q", c.data, n, got, c.want)
				break
			}
		}
	}
}

// FuzzParse looks that nothing of a message is lost that is not read, and that framing does not depend on how the bytes come.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"<34>1 2003-10-11T22:14:15.003Z h su - ID47 [a@1 b=\"c\\\"\"][d] text", "<34>Oct 11 22:14:15 mymachine su[1]: text", "<13>2026-01-01T00:00:00Z h a: b", "12 <1>Jan 1 1 1", "<1>a\n\n<2>b",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := parse(b, testNow, time.UTC)
		if !bytes.HasSuffix(b, m.text) || m.problem != "" && len(m.text) != len(b) {
			t.Fatalf("%q: text %q, problem %q", b, m.text, m.problem)
		}
		if attrs, problem := m.attributes(50); problem == "" && len(attrs) > 100 {
			t.Fatalf("%d attributes", len(attrs))
		}
		if m.problem == "" && m.host != nil && !bytes.Contains(m.source, m.host) {
			t.Fatalf("%q: host %q is not in %q", b, m.host, m.source)
		}
		whole, end := cut(b, len(b)+1, 20)
		for _, n := range []int{1, 3, 7} {
			frames, e := cut(b, n, 20)
			if strings.Join(frames, "|") != strings.Join(whole, "|") || e != end {
				t.Fatalf("%q in pieces of %d:\n%q %q\nand at once\n%q %q", b, n, frames, e, whole, end)
			}
		}
	})
}
