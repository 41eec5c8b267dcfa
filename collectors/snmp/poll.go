package snmp

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/gosnmp/gosnmp"

	"kemi"
	"kemi/pipeline/codec"
)

// named is a profile and what it is called.
type named struct {
	name string
	*Profile
}

// result is what a host answered, as it is written.
type result struct {
	at     kemi.Millis
	base   kemi.Labels // host
	series []series
	seen   map[string]bool
	// doubles are series that two rows gave; the later one is left out.
	doubles int
}

type series struct {
	labels kemi.Labels
	meta   codec.Metadata
	value  float64
}

// poll asks a host for the profiles. The result is to be written also with an error: it says that the host is not up, or which profile failed.
func poll(ctx context.Context, c Config, j *job, profiles []named, now func() time.Time) (*result, error) {
	began := now()
	r := &result{at: kemi.MillisOf(began), base: kemi.LabelsOf("host", j.Host), seen: map[string]bool{}}
	ctx, cancel := context.WithTimeout(ctx, c.PollTimeout)
	defer cancel()
	up, err := r.ask(ctx, c, j, profiles)
	samples := len(r.series)
	r.add(Metric{Name: "snmp_up", Help: "Whether the host answered."}, nil, boolean(up))
	r.add(Metric{Name: "snmp_scrape_duration_seconds", Help: "How long the host was asked."}, nil, now().Sub(began).Seconds())
	r.add(Metric{Name: "snmp_scrape_samples", Help: "Samples of the profiles that the host gave."}, nil, float64(samples))
	return r, err
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (r *result) ask(ctx context.Context, c Config, j *job, profiles []named) (up bool, err error) {
	s, err := dial(ctx, c, j.Credential, j.Project, j.Address)
	if err != nil {
		return false, err
	}
	defer s.close()
	// A host that answers this is up, whatever else it has.
	if _, err := s.get([]string{oidUptime}); err != nil {
		return false, err
	}
	var first error
	for _, p := range profiles {
		err := r.profile(s, p.Profile)
		if err != nil && first == nil {
			first = fmt.Errorf("profile %s: %w", p.name, err)
		}
		r.add(Metric{Name: "snmp_profile_up", Help: "Whether the host could be asked for all of the profile."}, kemi.LabelsOf("profile", p.name), boolean(err == nil))
		if ctx.Err() != nil {
			break
		}
	}
	return true, first
}

func (r *result) profile(s *session, p *Profile) error {
	var oids []string
	for i := range p.Metrics {
		oids = append(oids, plainOID(p.Metrics[i].OID))
		if e := p.Metrics[i].Else; e != "" {
			oids = append(oids, plainOID(e))
		}
	}
	got, err := s.get(oids)
	if err != nil {
		return err
	}
	for i := range p.Metrics {
		m := &p.Metrics[i]
		if v, ok := got[plainOID(m.OID)]; ok {
			r.value(*m, nil, v, m.Scale)
		} else if v, ok := got[plainOID(m.Else)]; ok {
			r.value(*m, nil, v, m.ElseScale)
		}
	}
	for i := range p.Tables {
		if err := r.table(s, &p.Tables[i]); err != nil {
			return err
		}
	}
	return nil
}

// value adds the value of an object.
func (r *result) value(m Metric, row kemi.Labels, v gosnmp.SnmpPDU, scale float64) {
	if m.Type == typeText {
		if t := words(v); t != "" {
			r.add(m, append(row[:len(row):len(row)], kemi.Label{Name: m.Label, Value: t}), 1)
		}
		return
	}
	f, ok := number(v)
	if !ok {
		return
	}
	r.add(m, row, scaled(f, scale))
}

// scaled is f times scale. Tenths and hundredths are divided, which is what a decimal number means.
func scaled(f, scale float64) float64 {
	if scale == 0 {
		return f
	}
	if n := math.Round(1 / scale); scale < 1 && math.Abs(n*scale-1) < 1e-12 {
		return f / n
	}
	return f * scale
}

// add adds a sample of a series that is not there yet.
func (r *result) add(m Metric, more kemi.Labels, v float64) {
	ls := make(kemi.Labels, 0, len(r.base)+len(more)+1)
	ls = append(append(append(ls, kemi.Label{Name: kemi.MetricName, Value: m.Name}), r.base...), more...).Normalize()
	key := ls.String()
	if r.seen[key] {
		r.doubles++
		return
	}
	r.seen[key] = true
	kind := "gauge"
	if m.Type == typeCounter {
		kind = "counter"
	}
	r.series = append(r.series, series{ls, codec.Metadata{Metric: m.Name, Type: kind, Help: m.Help}, v})
}

// table adds the rows of a table. Columns that several metrics or labels share are asked for once.
func (r *result) table(s *session, t *Table) error {
	columns := map[string]map[string]gosnmp.SnmpPDU{}
	column := func(oid string) (map[string]gosnmp.SnmpPDU, error) {
		if c, ok := columns[oid]; ok || oid == "" {
			return c, nil
		}
		c, err := s.column(oid)
		columns[oid] = c
		return c, err
	}
	// both is a column, and the one to fall back on where it lacks a row that is in want, which is nil for all.
	both := func(oid, other string, want map[string]kemi.Labels) (first, second map[string]gosnmp.SnmpPDU, err error) {
		if first, err = column(oid); err != nil || other == "" {
			return first, nil, err
		}
		for index := range want {
			if _, ok := first[index]; !ok {
				second, err = column(other)
				return first, second, err
			}
		}
		if want == nil || len(first) == 0 {
			second, err = column(other)
		}
		return first, second, err
	}
	labels := make([][2]map[string]gosnmp.SnmpPDU, len(t.Labels))
	for i, l := range t.Labels {
		first, second, err := both(l.OID, l.Else, nil)
		if err != nil {
			return err
		}
		labels[i] = [2]map[string]gosnmp.SnmpPDU{first, second}
	}
	rows := map[string]kemi.Labels{}
	row := func(index string) kemi.Labels {
		if ls, ok := rows[index]; ok {
			return ls
		}
		ls := kemi.Labels{}
		if t.Index != "" {
			ls = append(ls, kemi.Label{Name: t.Index, Value: index})
		}
		for i, l := range t.Labels {
			at := part(index, l.Parts)
			v, ok := labels[i][0][at]
			if !ok {
				v, ok = labels[i][1][at]
			}
			if ok {
				ls = append(ls, kemi.Label{Name: l.Label, Value: words(v)})
			}
		}
		rows[index] = ls
		return ls
	}
	for i := range labels {
		if t.Labels[i].Parts == 0 {
			for index := range labels[i][0] {
				row(index)
			}
		}
	}
	for i := range t.Metrics {
		m := &t.Metrics[i]
		first, second, err := both(m.OID, m.Else, rows)
		if err != nil {
			return err
		}
		for index, v := range first {
			r.value(*m, row(index), v, m.Scale)
		}
		for index, v := range second {
			if _, ok := first[index]; !ok {
				r.value(*m, row(index), v, m.ElseScale)
			}
		}
	}
	return nil
}

// part is the first n parts of an index, all if n is 0.
func part(index string, n int) string {
	if n == 0 {
		return index
	}
	for i := range len(index) {
		if index[i] == '.' {
			if n--; n == 0 {
				return index[:i]
			}
		}
	}
	return index
}

// body is the result as a remote-write 2.0 body.
func (r *result) body() []byte {
	var e codec.Encoder
	for _, s := range r.series {
		e.Describe(s.meta)
		e.Add(s.labels, []kemi.Millis{r.at}, []float64{s.value})
	}
	return e.Encode()
}
