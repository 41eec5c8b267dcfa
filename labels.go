package kemi

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// Label is a name and its value.
type Label struct{ Name, Value string }

// Labels are sorted by name, and no name stands twice. The nil value has none.
type Labels []Label

// LabelsOf is the pairs name, value, name, value, … as Labels. Of a name that stands twice the last wins; a label
// with an empty value is left out, as it says the same as no label.
func LabelsOf(pairs ...string) Labels {
	ls := make(Labels, 0, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		ls = append(ls, Label{pairs[i], pairs[i+1]})
	}
	return ls.Normalize()
}

// LabelsFromMap is m as Labels.
func LabelsFromMap(m map[string]string) Labels {
	ls := make(Labels, 0, len(m))
	for k, v := range m {
		ls = append(ls, Label{k, v})
	}
	return ls.Normalize()
}

// Normalize sorts ls in place, keeps the last of a name that stands twice, and drops labels with an empty value.
func (ls Labels) Normalize() Labels {
	slices.SortStableFunc(ls, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
	out := ls[:0]
	for i, l := range ls {
		if i+1 < len(ls) && ls[i+1].Name == l.Name || l.Value == "" {
			continue
		}
		out = append(out, l)
	}
	return out
}

func (ls Labels) find(name string) (int, bool) {
	return slices.BinarySearchFunc(ls, name, func(l Label, n string) int { return strings.Compare(l.Name, n) })
}

// Get is the value of name, or "" if there is none.
func (ls Labels) Get(name string) string {
	if i, ok := ls.find(name); ok {
		return ls[i].Value
	}
	return ""
}

// Has tells whether there is a label of that name.
func (ls Labels) Has(name string) bool {
	_, ok := ls.find(name)
	return ok
}

// With is a copy of ls in which name has value; an empty value takes the label away.
func (ls Labels) With(name, value string) Labels {
	i, ok := ls.find(name)
	out := make(Labels, 0, len(ls)+1)
	out = append(out, ls[:i]...)
	if value != "" {
		out = append(out, Label{name, value})
	}
	if ok {
		i++
	}
	return append(out, ls[i:]...)
}

// Map is ls as a map.
func (ls Labels) Map() map[string]string {
	m := make(map[string]string, len(ls))
	for _, l := range ls {
		m[l.Name] = l.Value
	}
	return m
}

// Compare orders label sets by their labels, first by name and then by value.
func (ls Labels) Compare(other Labels) int {
	return slices.CompareFunc(ls, other, func(a, b Label) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Value, b.Value)
	})
}

// String is {name="value", …}.
func (ls Labels) String() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, l := range ls {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(l.Name)
		b.WriteByte('=')
		b.WriteString(strconv.Quote(l.Value))
	}
	b.WriteByte('}')
	return b.String()
}

// MarshalJSON writes an object with the names as keys, in order.
func (ls Labels) MarshalJSON() ([]byte, error) { return json.Marshal(ls.Map()) }

// UnmarshalJSON reads an object of strings.
func (ls *Labels) UnmarshalJSON(b []byte) error {
	var m map[string]string
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	*ls = LabelsFromMap(m)
	return nil
}
