package promql

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/util/features"
	"google.golang.org/protobuf/encoding/protojson"

	"kemi"
)

// Process is what the server as a whole tells of itself where Prometheus does. All of it may be left out.
type Process struct {
	Started   time.Time
	Retention time.Duration
	Config    func() string                      // the effective configuration, secrets hidden
	Flags     map[string]string                  // of the command line
	Replay    func() (first, last, at int)       // segments of the log that a start replays
	Blocks    func(context.Context) (any, error) // what is on disk, as Prometheus' block metadata
}

// engineVersion is the Prometheus release of the engine in go.mod (module version 0.316.0).
const engineVersion = "3.16.0"

func (a *API) buildInfo(*http.Request, kemi.Identity) answer {
	// Clients look here for what they may ask: the version is the one of Prometheus whose engine answers.
	return answer{data: map[string]string{
		"version": engineVersion, "revision": "kemi " + a.o.Version, "branch": "", "buildUser": "", "buildDate": "", "goVersion": runtime.Version(),
	}}
}

// runtimeInfo has the fields of Prometheus' runtime information.
type runtimeInfo struct {
	StartTime           time.Time `json:"startTime"`
	CWD                 string    `json:"CWD"`
	Hostname            string    `json:"hostname"`
	ServerTime          time.Time `json:"serverTime"`
	ReloadConfigSuccess bool      `json:"reloadConfigSuccess"`
	LastConfigTime      time.Time `json:"lastConfigTime"`
	CorruptionCount     int64     `json:"corruptionCount"`
	GoroutineCount      int       `json:"goroutineCount"`
	GOMAXPROCS          int       `json:"GOMAXPROCS"`
	GOMEMLIMIT          int64     `json:"GOMEMLIMIT"`
	GOGC                string    `json:"GOGC"`
	GODEBUG             string    `json:"GODEBUG"`
	StorageRetention    string    `json:"storageRetention"`
}

func (a *API) runtimeInfo(_ *http.Request, id kemi.Identity) answer {
	p := a.o.Process
	info := runtimeInfo{
		StartTime: p.Started.UTC(), ServerTime: a.o.Now().UTC(), ReloadConfigSuccess: true, LastConfigTime: p.Started.UTC(), GoroutineCount: runtime.NumGoroutine(),
		GOMAXPROCS: runtime.GOMAXPROCS(0), GOMEMLIMIT: debug.SetMemoryLimit(-1), GOGC: os.Getenv("GOGC"), GODEBUG: os.Getenv("GODEBUG"),
	}
	if p.Retention > 0 {
		info.StorageRetention = retentionText(p.Retention)
	}
	if id.Can(kemi.Admin) { // where it runs is not everybody's affair
		info.CWD, _ = os.Getwd()
		info.Hostname, _ = os.Hostname()
	}
	return answer{data: info}
}

// retentionText is a duration as Prometheus writes them, in the largest units that divide it.
func retentionText(d time.Duration) string {
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{365 * 24 * time.Hour, "y"}, {7 * 24 * time.Hour, "w"}, {24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= u.d && d%u.d == 0 {
			return strconv.FormatInt(int64(d/u.d), 10) + u.name
		}
	}
	return d.String()
}

func (a *API) config(*http.Request, kemi.Identity) answer {
	text := ""
	if f := a.o.Process.Config; f != nil {
		text = f()
	}
	return answer{data: map[string]string{"yaml": text}}
}

func (a *API) flags(*http.Request, kemi.Identity) answer {
	if a.o.Process.Flags == nil {
		return answer{data: map[string]string{}}
	}
	return answer{data: a.o.Process.Flags}
}

func (a *API) features(*http.Request, kemi.Identity) answer {
	return answer{data: featureList(a.known.Get())}
}

// featureList is written without escapes: names of operators are among them.
type featureList map[string]map[string]bool

func (f featureList) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(map[string]map[string]bool(f))
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// ownFeatures are what this API has, by Prometheus' names.
func (a *API) ownFeatures() {
	a.known.Enable(features.API, "query_stats")
	a.known.Enable(features.API, "query_warnings")
	a.known.Enable(features.API, "label_values_match")
	a.known.Enable(features.API, "exclude_alerts")
	a.known.Enable(features.API, "remote_write_receiver")
	a.known.Enable(features.API, "otlp_write_receiver")
	a.known.Set(features.API, "admin", a.o.Deleter != nil)
	a.known.Disable(features.API, "lifecycle")
	a.known.Enable(features.TSDB, "exemplar_storage")
	a.known.Enable(features.TSDB, "native_histograms")
	a.known.Enable(features.TSDB, "out_of_order_ingestion")
}

func (a *API) status(r *http.Request, id kemi.Identity) answer {
	const most = 10000
	limit := 10
	if v := r.FormValue("limit"); v != "" {
		var err error
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 {
			return badData(errors.New("limit must be a positive number"))
		}
		if limit > most {
			return badData(fmt.Errorf("limit must not exceed %d", most))
		}
	}
	if a.o.Status == nil {
		return answer{err: &apiError{http.StatusNotImplemented, "unavailable", errors.New("this store has no such statistics")}}
	}
	s, err := a.o.Status.Status(r.Context(), id, limit)
	if err != nil {
		return answer{err: executionError(err)}
	}
	return answer{data: s}
}

func (a *API) blocks(r *http.Request, _ kemi.Identity) answer {
	if a.o.Process.Blocks == nil {
		return answer{err: &apiError{http.StatusNotImplemented, "unavailable", errors.New("this store has no blocks")}}
	}
	blocks, err := a.o.Process.Blocks(r.Context())
	if err != nil {
		return answer{err: executionError(err)}
	}
	return answer{data: map[string]any{"blocks": blocks}}
}

func (a *API) walReplay(*http.Request, kemi.Identity) answer {
	first, last, at := 0, 0, 0
	if f := a.o.Process.Replay; f != nil {
		first, last, at = f()
	}
	return answer{data: map[string]int{"min": first, "max": last, "current": at}}
}

// selfMetrics are the process's own metrics in the JSON form of their protobuf messages.
func (a *API) selfMetrics(r *http.Request, _ kemi.Identity) answer {
	var wanted *regexp.Regexp
	if p := r.FormValue("metric_name_pattern"); p != "" {
		var err error
		if wanted, err = regexp.Compile("^(?:" + p + ")$"); err != nil {
			return badData(fmt.Errorf("invalid metric_name_pattern: %w", err))
		}
	}
	list := []json.RawMessage{}
	if a.o.Gatherer == nil {
		return answer{data: list}
	}
	families, err := a.o.Gatherer.Gather()
	if err != nil {
		return answer{err: &apiError{http.StatusInternalServerError, "internal", fmt.Errorf("error gathering self metrics: %w", err)}}
	}
	for _, f := range families {
		if wanted != nil && !wanted.MatchString(f.GetName()) {
			continue
		}
		b, err := protojson.Marshal(f)
		if err != nil {
			return answer{err: &apiError{http.StatusInternalServerError, "internal", fmt.Errorf("error marshaling metric family %q: %w", f.GetName(), err)}}
		}
		list = append(list, b)
	}
	return answer{data: list}
}

// alertmanagers are those that alerts are sent to: none, as the one that there is lies within.
func (a *API) alertmanagers(*http.Request, kemi.Identity) answer {
	return answer{data: map[string][]string{"activeAlertmanagers": {}, "droppedAlertmanagers": {}}}
}

// notification is what Prometheus' page shows to everybody who looks at it.
type notification struct {
	Text   string    `json:"text"`
	Date   time.Time `json:"date"`
	Active bool      `json:"active"`
}

// notices are what users should know now: that answers are not complete, and why.
func (a *API) notices() []notification {
	out := []notification{}
	if f := a.freshness(); !f.Complete {
		out = append(out, notification{Text: "Answers are not complete: " + f.Reason, Date: a.o.Process.Started.UTC(), Active: true})
	}
	return out
}

func (a *API) notifications(*http.Request, kemi.Identity) answer { return answer{data: a.notices()} }

// liveNotifications sends each notice when it comes and when it goes, as server-sent events.
func (a *API) liveNotifications(w http.ResponseWriter, r *http.Request, _ kemi.Identity) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	out := http.NewResponseController(w)
	send := func(n notification) error {
		b, err := json.Marshal(n)
		if err == nil {
			_, err = fmt.Fprintf(w, "data: %s\n\n", b)
		}
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var shown []notification
	for {
		now := a.notices()
		if len(now) != len(shown) || len(now) > 0 && now[0].Text != shown[0].Text {
			for _, n := range shown {
				n.Active = false
				if send(n) != nil {
					return
				}
			}
			for _, n := range now {
				if send(n) != nil {
					return
				}
			}
			shown = now
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}
