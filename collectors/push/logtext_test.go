package push

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"kemi"
)

func TestSeverityOf(t *testing.T) {
	for body, want := range map[string]string{
		"": "", "hello world": "", "The error was mine": "", "Failed password for root": "", "no ERRORS here": "", "an INFOrmal word": "",
		"ERROR something": "error", "[error] mod_jk": "error", "WARN: low": "warn", "warning: low": "warn", "error: broken": "error",
		"2015-07-29 17:41:44,747 - INFO  [QuorumPeer[myid=1]/0:0] - Notification":                    "info",
		"081109 203615 148 INFO dfs.DataNode$PacketResponder: PacketResponder 1":                     "info",
		"17/06/09 20:10:40 WARN executor.Executor: slow":                                             "warn",
		"nova-api.log.1.2017-05-16_13:53:08 2017-05-16 00:00:00.008 25746 ERROR nova.osapi x":        "error",
		"[Sun Dec 04 04:47:44 2005] [error] mod_jk child workerEnv in error state 6":                 "error",
		"03-17 16:13:38.811  1702  2395 D WindowManager: printFreezingDisplayLogsopening":            "debug",
		"03-17 16:13:38.811  1702  2395 V PhoneStatusBar: x":                                         "debug",
		"Jun 14 15:16:01 combo sshd(pam_unix)[19939]: authentication failure":                        "",
		"- 1117838570 2005.06.03 R02-M1-N0-C:J12-U11 RAS KERNEL INFO instruction cache parity error": "info",
		"2026-05-04 ERR x":                         "error",
		"Vitamin D is good":                        "",
		"I am here":                                "",
		`{"level":"warn","msg":"error"}`:           "warn",
		`{"msg":"x","severity":"ERROR"}`:           "error",
		`{"msg":"level","x":1}`:                    "",
		`{"level": 50 , "msg":"x"}`:                "error",
		`{"PRIORITY":"3"}`:                         "error",
		`{"level":"x","severity":"info"}`:          "info",
		`{"level`:                                  "",
		`ts=2026 level=error msg="x"`:              "error",
		`time="x" level="warning" msg=y`:           "warn",
		`msg="no level" loglevel=`:                 "",
		"FATAL EXCEPTION: main":                    "fatal",
		"panic: runtime error: index out of range": "fatal",
		"line one\nERROR line two":                 "",
		strings.Repeat("a ", 200) + "ERROR":        "",
		"<info> NetworkManager: state":             "info",
		"[12345.678] (WW) warning":                 "",
		"INFO|2026|x":                              "info",
		"결제 실패 ERROR":                              "error",
	} {
		if got := severityOf(body).String(); got != want {
			t.Errorf("%q: %q, want %q", body, got, want)
		}
	}
}

func TestParseLogTime(t *testing.T) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 123_456_789, time.UTC)
	sec, ms, us := at.Truncate(time.Second), at.Truncate(time.Millisecond), at.Truncate(time.Microsecond)
	for s, want := range map[string]time.Time{
		"2026-05-04T03:02:01.123456789Z": at, "2026-05-04T12:02:01.123456789+09:00": at, "2026-05-04T12:02:01.123456789+0900": at, "2026-05-04T03:02:01Z": sec,
		"2026-05-04 03:02:01.123": ms, "2026-05-04 03:02:01,123": ms, "2026-05-04T03:02:01.123": ms, "2026-05-04 03:02:01": sec, "2026-05-04 12:02:01 +0900": sec, "2026-05-04 03:02:01 UTC": sec, "2026-05-04 12:02:01+09:00": sec,
		"2026-05-04": time.Date(2026, 5, 4, 0, 0, 0, 0, time.UTC),
		"1777863721": sec, "1777863721123": ms, "1777863721123456": us, "1777863721123456789": at, "1777863721.123": ms, "1777863721.123456789": at, "1777863721123.456": us, "1.777863721e9": sec,
		"0": time.Unix(0, 0), "-1.5": time.Unix(-2, 5e8), "5": time.Unix(5, 0),
	} {
		got, err := parseLogTime(s)
		if err != nil || got != kemi.NanosOf(want) {
			t.Errorf("%s: %s %v, want %s", s, got.Time(), err, want.UTC())
		}
	}
	for _, s := range []string{"", "x", "2026", "2026-13-01", "9999-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "99999999999999999999", "NaN", "1e99", "Inf", "0x10p3", "12_0", "1.2.3", "1.x", strings.Repeat("1", 100), "2026-05-04T03:02:01Z" + strings.Repeat("x", 50)} {
		if s == "2026" { // a number of seconds
			continue
		}
		if got, err := parseLogTime(s); err == nil || kemi.HTTPStatus(err) != 400 {
			t.Errorf("%s: %s, %v", s, got.Time(), err)
		}
	}
}

func FuzzParseLogTime(f *testing.F) {
	for _, s := range []string{"2026-05-04T03:02:01.123456789Z", "1777863721.123", "-1.5", "1e9", "9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if at, err := parseLogTime(s); err == nil {
			if again, err := parseLogTime(at.Time().Format(time.RFC3339Nano)); at.Time().Year() >= 1678 && at.Time().Year() <= 2261 && (err != nil || again != at) {
				t.Fatalf("%q is %d, which as text is %d, %v", s, at, again, err)
			}
		}
	})
}

// FuzzJSON compares the reader with encoding/json: what that takes it takes as well, and with the same meaning.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":"b\n\u00e9\ud83d\ude00","c":[1,-2.5e+3,true,null],"d":{"e":{}}}`, `{"a":1}x`, `{"a":"\ud800\u0041"}`, "{\"a\":\"\xff\"}", `{"":[[]]}`, `{"a":01}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		j := &jsonReader{s: s}
		got := map[string]any{}
		err := j.object(func(name string) error {
			v, err := j.text(0)
			got[strings.ToValidUTF8(name, "\ufffd")] = v
			return err
		})
		if err == nil && j.more() {
			err = j.errorf("expected the end")
		}
		var want map[string]json.RawMessage
		if json.Unmarshal([]byte(s), &want) != nil || want == nil {
			return // it may take more: control characters, bytes that are not UTF-8
		}
		if err != nil {
			if strings.Contains(err.Error(), "levels deep") {
				return
			}
			t.Fatalf("%q: %v", s, err)
		}
		if strings.Contains(s, "\ufffd") || strings.ToValidUTF8(s, "") != s {
			return // encoding/json replaces what is not UTF-8
		}
		text := map[string]any{}
		for k, raw := range want {
			var str string
			switch {
			case string(raw) == "null":
				text[k] = ""
			case json.Unmarshal(raw, &str) == nil:
				text[k] = str
			default:
				text[k] = string(raw)
			}
		}
		if !reflect.DeepEqual(got, text) {
			t.Fatalf("%q: got %q, want %q", s, got, text)
		}
	})
}

// FuzzLokiLabels: labels come back as they were written.
func FuzzLokiLabels(f *testing.F) {
	f.Add(`{app="pay", host="web01"}`)
	f.Add("{a=`raw`,b=\"\\u00e9\"}")
	f.Fuzz(func(t *testing.T, s string) {
		ls, err := parseLokiLabels(s)
		if err != nil {
			return
		}
		again, err := parseLokiLabels(ls.String())
		if err != nil || ls.Compare(again) != 0 {
			t.Fatalf("%q gives %v, which gives %v, %v", s, ls, again, err)
		}
	})
}

// FuzzLokiProto: nothing panics, and what is taken keeps the limits.
func FuzzLokiProto(f *testing.F) {
	f.Add([]byte("\x0a\x12\x0a\x07{a=\"b\"}\x12\x07\x0a\x02\x08\x01\x12\x01x"))
	f.Add([]byte(`{"streams":[{"stream":{"a":"b"},"values":[["1777863721123456789","x",{"c":"d"}]]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func(*intake, string) error{parseLokiProto, parseLokiJSON} {
			in := (&Push{cfg: DefaultConfig(), now: time.Now}).newIntake("loki")
			if err := parse(in, string(b)); err != nil && kemi.HTTPStatus(err) != 400 {
				t.Fatal(err)
			}
			for _, r := range in.records {
				if r.At <= 0 || !ordered(r.Stream) || !ordered(r.Attrs) {
					t.Fatalf("%+v", r)
				}
			}
		}
	})
}
