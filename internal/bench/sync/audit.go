package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
)

// integrator is who the program is in the cluster. The bare client of the comparison is the same ServiceAccount, so
// that both pay for the cage.
const integrator = "system:serviceaccount:" + deploy.Namespace + ":" + deploy.ServiceAccount

// auditPolicy logs the integrator's writes and nothing else.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ["` + integrator + `"]
  verbs: [create, update, patch, delete, deletecollection]
- level: None
`

// write is one write of the integrator that the API server has answered.
type write struct {
	verb, resource, namespace, name string
	code                            int
	at                              time.Time
}

// ofPlan reports whether the write belongs to the plan: not to CI credentials, leases or the program's own state.
func (w write) ofPlan() bool {
	switch w.resource {
	case "namespaces", "serviceaccounts", "rolebindings":
		return w.namespace != deploy.Namespace
	}
	return false
}

// steady reports whether the write may happen in a round in which nothing changed: the Lease, events and the
// program's own state in its own namespace; and the questions what it may do, which store nothing.
func (w write) steady() bool {
	return w.resource == "leases" || w.resource == "events" || w.resource == "selfsubjectaccessreviews" || w.namespace == deploy.Namespace
}

// audit reads an audit log while it grows.
type audit struct {
	path   string
	offset int64
	writes []write
}

// read takes what was written to the log since the last time.
func (a *audit) read() error {
	f, err := os.Open(a.path)
	if err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	defer f.Close()
	if _, err := f.Seek(a.offset, 0); err != nil {
		return err
	}
	r := bufio.NewReaderSize(f, 1<<20)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return nil // the rest of a line comes later
		}
		a.offset += int64(len(line))
		var e struct {
			Verb      string `json:"verb"`
			ObjectRef struct {
				Resource    string `json:"resource"`
				Namespace   string `json:"namespace"`
				Name        string `json:"name"`
				Subresource string `json:"subresource"`
			} `json:"objectRef"`
			ResponseStatus struct {
				Code int `json:"code"`
			} `json:"responseStatus"`
			StageTimestamp time.Time `json:"stageTimestamp"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("reading the audit log: %w", err)
		}
		w := write{e.Verb, e.ObjectRef.Resource, e.ObjectRef.Namespace, e.ObjectRef.Name, e.ResponseStatus.Code, e.StageTimestamp}
		if e.ObjectRef.Subresource != "" {
			w.resource += "/" + e.ObjectRef.Subresource
		}
		a.writes = append(a.writes, w)
	}
}

// planned returns how many successful writes of the plan there were since the given one, and when the first and the
// last one were.
func (a *audit) planned(since int) (first, last time.Time, n int) {
	for _, w := range a.writes[since:] {
		if !w.ofPlan() || w.code >= 300 {
			continue
		}
		n++
		if first.IsZero() || w.at.Before(first) {
			first = w.at
		}
		if w.at.After(last) {
			last = w.at
		}
	}
	return first, last, n
}

// kinds counts writes by verb and resource, for a person to read.
func kinds(writes []write) []string {
	count := map[string]int{}
	for _, w := range writes {
		key := w.verb + " " + w.resource
		if w.code >= 300 {
			key += fmt.Sprintf(" (%d)", w.code)
		}
		count[key]++
	}
	var out []string
	for k, n := range count {
		out = append(out, fmt.Sprintf("%s: %d", k, n))
	}
	slices.Sort(out)
	return out
}
