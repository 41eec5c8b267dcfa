package snmp

import (
	"encoding/json"
	"time"

	"kemi"
	"kemi/pipeline/bus"
)

// job is one poll of one host, as it lies on topic jobs. It has everything that a poller needs to know but the secrets.
type job struct {
	Kind       string         `json:"kind"` // jobKind
	Project    string         `json:"project"`
	Host       string         `json:"host"`
	Address    string         `json:"address"`
	Credential string         `json:"credential"`
	Due        kemi.Millis    `json:"due"`
	Interval   kemi.Millis    `json:"interval"`
	Profiles   []profileOfJob `json:"profiles"`
}

// profileOfJob is a profile by name, and its spec if it is not built in.
type profileOfJob struct {
	Name string          `json:"name"`
	Spec json.RawMessage `json:"spec,omitempty"`
}

// jobKind says what a record of topic jobs is; pollers pass others over.
const jobKind = "snmp.poll/1"

const headerProject = "project"

func (j *job) key() string { return j.Project + "\x00" + j.Host }

func (j *job) record() (bus.Record, error) {
	b, err := json.Marshal(j)
	if err != nil {
		return bus.Record{}, err
	}
	return bus.Record{Key: []byte(j.key()), Value: b, Headers: []bus.Header{{Name: headerProject, Value: j.Project}, {Name: "content-type", Value: "application/json"}}}, nil
}

// jobOf reads a record; nil if it is no job of ours.
func jobOf(r *bus.Record) *job {
	var j job
	if json.Unmarshal(r.Value, &j) != nil || j.Kind != jobKind || j.Host == "" || j.Interval <= 0 {
		return nil
	}
	return &j
}

// late tells whether the next poll is due already: then this one has nothing to say any more.
func (j *job) late(now time.Time) bool { return kemi.MillisOf(now) >= j.Due+max(j.Interval, minKeep) }

// minKeep is how long a job is good at least, so that a restart loses none.
const minKeep = kemi.Millis(60_000)

// profiles are those of the job that can be read; bad names the others.
func (j *job) profiles() (good []named, bad []string) {
	for _, p := range j.Profiles {
		if b, ok := builtin[p.Name]; ok && p.Spec == nil {
			good = append(good, named{p.Name, b})
			continue
		}
		x, err := parseProfile(p.Spec)
		if err != nil {
			bad = append(bad, p.Name)
			continue
		}
		good = append(good, named{p.Name, x})
	}
	return good, bad
}
