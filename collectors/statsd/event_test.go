package statsd

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"kemi"
)

func TestEvents(t *testing.T) {
	const now = "2026-05-03T03:09:30Z"
	for line, want := range map[string]string{
		`_e{5,4}:title|text`: now + ` info {service="statsd"} {kind="event"} title/text`,
		`_e{3,10}:a|b|two\nlines|d:1777777771|h:web-1|p:low|t:error|k:deploys|s:git|#service:pay,host:other,env:prod,team:x,urgent|c:ci-1f`: "2026-05-03T03:09:31Z error " +
			`{env="prod", host="web-1", service="pay"} {aggregation_key="deploys", alert_type="error", host="other", kind="event", priority="low", source_type="git", team="x", urgent="true"} a|b/two/lines`,
		`_e{6,0}:배포||#host:web-2`: now + ` info {host="web-2", service="statsd"} {kind="event"} 배포`,
		`_e{1,1}:a|b|t:warning`:   now + ` warn {service="statsd"} {alert_type="warning", kind="event"} a/b`,
		`_sc|db.up|0`:             now + ` info {service="statsd"} {check="db.up", kind="service_check", status="ok"} db.up is ok`,
		`_sc|db.up|2|d:1777777771|h:db-1|#x:y|m:no|m\:answer`: "2026-05-03T03:09:31Z error " + `{host="db-1", service="statsd"} {check="db.up", kind="service_check", status="critical", x="y"} db.up is critical: no|m:answer`,
		`_sc|db.up|3|m:`: now + ` warn {service="statsd"} {check="db.up", kind="service_check", status="unknown"} db.up is unknown: `,
	} {
		r, err := parseEvent([]byte(line), time.UnixMilli(1777777770000))
		got := fmt.Sprintf("%s %s %s %s %s", r.At.Time().UTC().Format(time.RFC3339), r.Severity, r.Stream, r.Attrs, strings.ReplaceAll(r.Body, "\n", "/"))
		if err != nil || got != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", line, err, got, want)
		}
	}
}

func TestEventsRefused(t *testing.T) {
	for line, why := range map[string]string{
		"_e{": "must be _e{", "_e{5}:title|text": "must be", "_e{5,4}:titl|text": "must be", "_e{5,9}:title|text": "must be", "_e{5,3}:title|text": "must be", "_e{0,4}:|text": "must be",
		"_e{9223372036854775807,9223372036854775807}:a|b": "must be", "_e{-1,4}:a|text": "must be", "_e{1,1}:a|b|t:odd": "is not known", "_e{1,1}:a|b|z": "is not known",
		"_e{1,1}:a|b|d:x": "seconds", "_e{1,1}:a|b|d:99999999999999": "seconds", "_e{1,1}:a|b|#:x": "no name", "_e{1,1}:\xff|b": "UTF-8",
		"_sc|a": "service check", "_sc|a|4": "service check", "_sc||0": "service check", "_sc|a|0|p:low": "is not known",
	} {
		if r, err := parseEvent([]byte(line), time.Now()); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v %v, want %q", line, r, err, why)
		}
	}
}

// TestEventsWait fills what may wait, and puts back what could not be written: order stays, and what has no room is counted.
func TestEventsWait(t *testing.T) {
	var e events
	for i := range maxEvents {
		if !e.add(kemi.LogRecord{At: kemi.Nanos(i)}) {
			t.Fatal(i)
		}
	}
	if e.add(kemi.LogRecord{}) {
		t.Error("more than may wait")
	}
	all := e.take()
	if !e.add(kemi.LogRecord{At: -1}) || e.again(all) != 1 || len(e.take()) != maxEvents || e.again(all[:2]) != 0 {
		t.Error("put back wrongly")
	}
	if !e.add(kemi.LogRecord{At: 7}) {
		t.Error("there is room")
	}
	if got := e.take(); len(got) != 3 || got[0].At != 0 || got[2].At != 7 {
		t.Errorf("%v", got)
	}
}
