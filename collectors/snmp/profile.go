package snmp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"kemi"
)

// Profile is what a host is asked for. It is the spec of the inventory's resource SNMPProfile.
type Profile struct {
	// Metrics are single objects: their OIDs end with the instance, mostly .0.
	Metrics []Metric `json:"metrics,omitempty"`
	// Tables have columns, whose OIDs the index of the row is added to.
	Tables []Table `json:"tables,omitempty"`
}

// Metric is an object that becomes a metric.
type Metric struct {
	Name string `json:"name"`
	OID  string `json:"oid"`
	// Else is asked for where there is no OID: a counter of 32 bits where there is none of 64. Its values are multiplied by ElseScale.
	Else      string  `json:"else,omitempty"`
	ElseScale float64 `json:"elseScale,omitempty"`
	// Type is counter, gauge (the default), or text: then the metric is 1 and the text is in the label Label.
	Type  string `json:"type,omitempty"`
	Label string `json:"label,omitempty"`
	// Scale is what values are multiplied by: 0.01 makes seconds of hundredths.
	Scale float64 `json:"scale,omitempty"`
	Help  string  `json:"help,omitempty"`
}

// Table is a table whose rows become series.
type Table struct {
	// Index is the label that holds the row's index, with dots if it has several parts; without it rows must differ in other labels.
	Index string `json:"index,omitempty"`
	// Labels are columns that become labels.
	Labels  []LabelColumn `json:"labels,omitempty"`
	Metrics []Metric      `json:"metrics"`
}

// LabelColumn is a column that becomes a label of a table's rows. It may be of another table: Parts is how many parts of the row's index it is found by, 0 = all.
type LabelColumn struct {
	Label string `json:"label"`
	OID   string `json:"oid"`
	Else  string `json:"else,omitempty"`
	Parts int    `json:"parts,omitempty"`
}

// The limits of a profile.
const (
	maxProfileBytes = 256 << 10
	maxMetrics      = 500
	maxTables       = 50
	maxLabels       = 16
)

var (
	oidForm   = regexp.MustCompile(`^\.?[0-2](\.[0-9]{1,10})+$`)
	nameForm  = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]{0,199}$`)
	labelForm = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]{0,99}$`)
)

// reserved are labels that every series has.
var reserved = []string{"host", kemi.MetricName, "profile"}

// CheckProfile tells what is wrong with the spec of a profile, and gives it in its one form.
func CheckProfile(spec json.RawMessage) (json.RawMessage, error) {
	p, err := parseProfile(spec)
	if err != nil {
		return nil, err
	}
	return json.Marshal(p)
}

func parseProfile(spec json.RawMessage) (*Profile, error) {
	if len(spec) > maxProfileBytes {
		return nil, kemi.Errorf(kemi.ErrTooLarge, "spec: %d bytes, a profile has at most %d", len(spec), maxProfileBytes)
	}
	var p Profile
	d := json.NewDecoder(bytes.NewReader(spec))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "spec: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if err := p.validate(); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "spec.%w", err)
	}
	return &p, nil
}

func (p *Profile) validate() error {
	n := len(p.Metrics)
	for i := range p.Metrics {
		if err := p.Metrics[i].validate(); err != nil {
			return fmt.Errorf("metrics[%d].%w", i, err)
		}
	}
	if len(p.Tables) > maxTables {
		return fmt.Errorf("tables: %d, at most %d", len(p.Tables), maxTables)
	}
	for i := range p.Tables {
		n += len(p.Tables[i].Metrics)
		if err := p.Tables[i].validate(); err != nil {
			return fmt.Errorf("tables[%d].%w", i, err)
		}
	}
	switch {
	case n == 0:
		return errors.New("metrics: none, and no tables with any")
	case n > maxMetrics:
		return fmt.Errorf("metrics: %d with those of tables, at most %d", n, maxMetrics)
	}
	return nil
}

func (m *Metric) validate() error {
	switch {
	case !nameForm.MatchString(m.Name):
		return fmt.Errorf("name: %.80q must be letters, digits, '_' and ':', and not begin with a digit", m.Name)
	case !oidForm.MatchString(m.OID):
		return fmt.Errorf("oid: %.80q is not an OID such as 1.3.6.1.2.1.1.3.0", m.OID)
	case m.Else != "" && !oidForm.MatchString(m.Else):
		return fmt.Errorf("else: %.80q is not an OID", m.Else)
	case m.Type != "" && m.Type != typeCounter && m.Type != typeGauge && m.Type != typeText:
		return fmt.Errorf("type: %.40q must be counter, gauge or text", m.Type)
	case m.Type == typeText && !goodLabel(m.Label):
		return fmt.Errorf("label: %.80q must be a name of letters, digits and '_', and none of %s: a text goes into it", m.Label, strings.Join(reserved, ", "))
	case m.Type != typeText && m.Label != "":
		return fmt.Errorf("label: %.80q is for type text only", m.Label)
	case len(m.Help) > 1000:
		return errors.New("help: at most 1000 bytes")
	}
	return nil
}

func goodLabel(s string) bool { return labelForm.MatchString(s) && !slices.Contains(reserved, s) }

func (t *Table) validate() error {
	used := map[string]bool{}
	take := func(field, label string) error {
		if !goodLabel(label) {
			return fmt.Errorf("%s: %.80q must be a name of letters, digits and '_', and none of %s", field, label, strings.Join(reserved, ", "))
		}
		if used[label] {
			return fmt.Errorf("%s: %q stands there twice", field, label)
		}
		used[label] = true
		return nil
	}
	if t.Index != "" {
		if err := take("index", t.Index); err != nil {
			return err
		}
	}
	if len(t.Labels) > maxLabels {
		return fmt.Errorf("labels: %d, at most %d", len(t.Labels), maxLabels)
	}
	for i, l := range t.Labels {
		at := fmt.Sprintf("labels[%d].", i)
		if err := take(at+"label", l.Label); err != nil {
			return err
		}
		switch {
		case !oidForm.MatchString(l.OID):
			return fmt.Errorf("%soid: %.80q is not an OID", at, l.OID)
		case l.Else != "" && !oidForm.MatchString(l.Else):
			return fmt.Errorf("%selse: %.80q is not an OID", at, l.Else)
		case l.Parts < 0 || l.Parts > 128:
			return fmt.Errorf("%sparts: %d", at, l.Parts)
		}
	}
	if len(used) == 0 {
		return errors.New("index: empty, and no labels: the rows could not be told apart")
	}
	if len(t.Metrics) == 0 {
		return errors.New("metrics: none")
	}
	for i := range t.Metrics {
		m := &t.Metrics[i]
		if err := m.validate(); err != nil {
			return fmt.Errorf("metrics[%d].%w", i, err)
		}
		if m.Type == typeText && used[m.Label] {
			return fmt.Errorf("metrics[%d].label: %q is a label of the rows already", i, m.Label)
		}
	}
	return nil
}

const (
	typeCounter = "counter"
	typeGauge   = "gauge"
	typeText    = "text"
)

// Builtin are the names of the profiles that are built in.
func Builtin() []string { return slices.Sorted(maps.Keys(builtin)) }
