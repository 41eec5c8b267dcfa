package cmdb

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"kemi"
	"kemi/provisioning/resource"
)

// The limits of the inventory.
const (
	maxHosts    = 100_000 // of a project
	maxServices = 10_000  // of a project
	maxText     = 1024    // bytes of a description
	maxValue    = 200     // bytes of a service, owner, zone, label
	maxLabels   = 64
	maxDepends  = 256
	maxReport   = 16 << 10 // bytes of what an agent says
)

// HostSpec is what people say of a host.
type HostSpec struct {
	Service     string            `json:"service,omitempty"`
	Owner       string            `json:"owner,omitempty"`
	Zone        string            `json:"zone,omitempty"`
	Description string            `json:"description,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	// SNMP says that the host is asked by SNMP, and how. Without it one that discovery found is asked as discovery says.
	SNMP *SNMPSpec `json:"snmp,omitempty"`
}

// ServiceSpec is what people say of a service.
type ServiceSpec struct {
	Owner       string            `json:"owner,omitempty"`
	Description string            `json:"description,omitempty"`
	DependsOn   []string          `json:"dependsOn,omitempty"` // other services, which need not be known yet
	Labels      map[string]string `json:"labels,omitempty"`
	// SNMPProfiles are profiles that the hosts of the service are asked for, beside their own.
	SNMPProfiles []string `json:"snmpProfiles,omitempty"`
}

// report is the part of an agent's registration that IMS itself reads; the rest is kept as it came.
type report struct {
	Service string `json:"service"`
	Owner   string `json:"owner"`
	Zone    string `json:"zone"`
}

type reportStatus struct {
	Registered kemi.Millis `json:"registered"`
	LastSeen   kemi.Millis `json:"lastSeen"`
}

func (s HostSpec) validate() error {
	for _, f := range []struct{ field, value string }{{"service", s.Service}, {"owner", s.Owner}, {"zone", s.Zone}} {
		if err := checkValue("spec."+f.field, f.value); err != nil {
			return err
		}
	}
	if err := checkText(s.Description); err != nil {
		return err
	}
	if s.SNMP != nil {
		if err := s.SNMP.validate(); err != nil {
			return err
		}
	}
	return checkLabels(s.Labels)
}

func (s ServiceSpec) validate() error {
	if err := checkValue("spec.owner", s.Owner); err != nil {
		return err
	}
	if err := checkText(s.Description); err != nil {
		return err
	}
	if len(s.DependsOn) > maxDepends {
		return kemi.Errorf(kemi.ErrInvalid, "spec.dependsOn: %d services, at most %d", len(s.DependsOn), maxDepends)
	}
	for i, d := range s.DependsOn {
		if err := resource.CheckName(fmt.Sprintf("spec.dependsOn[%d]", i), d); err != nil {
			return err
		}
	}
	if err := checkProfiles("spec.snmpProfiles", s.SNMPProfiles); err != nil {
		return err
	}
	return checkLabels(s.Labels)
}

func checkText(s string) error {
	if len(s) > maxText || !utf8.ValidString(s) {
		return kemi.Errorf(kemi.ErrInvalid, "spec.description: must be UTF-8 of at most %d bytes", maxText)
	}
	return nil
}

// checkValue refuses what is no value of a label: it becomes one.
func checkValue(field, s string) error {
	if len(s) > maxValue || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) || strings.TrimSpace(s) != s {
		return kemi.Errorf(kemi.ErrInvalid, "%s: %.80q must be UTF-8 of at most %d bytes, without control characters and without blanks around it", field, s, maxValue)
	}
	return nil
}

func checkLabels(m map[string]string) error {
	if len(m) > maxLabels {
		return kemi.Errorf(kemi.ErrInvalid, "spec.labels: %d labels, at most %d", len(m), maxLabels)
	}
	for k, v := range m {
		if err := resource.CheckName("spec.labels", k); err != nil {
			return err
		}
		if err := checkValue("spec.labels."+k, v); err != nil {
			return err
		}
	}
	return nil
}

// parseReport reads what an agent says: an object whose service, owner and zone are texts.
func parseReport(b json.RawMessage) (report, json.RawMessage, error) {
	var r report
	if len(b) > maxReport {
		return r, nil, kemi.Errorf(kemi.ErrTooLarge, "spec: %d bytes, a registration has at most %d", len(b), maxReport)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil || all == nil {
		return r, nil, kemi.Errorf(kemi.ErrInvalid, "spec: must be an object")
	}
	for name, to := range map[string]*string{"service": &r.Service, "owner": &r.Owner, "zone": &r.Zone} {
		if v, ok := all[name]; ok {
			if err := json.Unmarshal(v, to); err != nil {
				return r, nil, kemi.Errorf(kemi.ErrInvalid, "spec.%s: %.80s must be a string", name, v)
			}
		}
		if err := checkValue("spec."+name, *to); err != nil {
			return r, nil, err
		}
	}
	canonical, err := json.Marshal(all) // keys in order, no blanks: the same facts are the same bytes
	if err != nil {
		return r, nil, fmt.Errorf("registration: %w", err)
	}
	return r, canonical, nil
}
