package explain

import (
	"fmt"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// lines collects text in two columns.
type lines struct{ strings.Builder }

const labelWidth = 16

// add writes a line; an empty label goes on with the one before.
func (l *lines) add(label, format string, args ...any) {
	fmt.Fprintf(l, "  %-*s%s\n", labelWidth, label, fmt.Sprintf(format, args...))
}

// list writes a line for each text, with one label.
func (l *lines) list(label string, texts []string) {
	for _, t := range texts {
		l.add(label, "%s", t)
		label = ""
	}
}

// person names somebody for administrators.
func person(user int64, name string) string {
	if name == "" {
		return kubename.User(user)
	}
	return fmt.Sprintf("%s (%s)", rbacsync.Printable(name), kubename.User(user))
}

// place names a namespace and what it belongs to.
func place(ns, source, path string) string {
	if source == "" {
		return "namespace " + rbacsync.Printable(ns)
	}
	return fmt.Sprintf("namespace %s (%s %s)", rbacsync.Printable(ns), source, rbacsync.Printable(path))
}

// Text is the report for people.
func (r *Report) Text() string {
	var l lines
	asked := ""
	if r.Request != "" {
		asked = ", " + r.Request
	}
	fmt.Fprintf(&l, "%s in %s%s: %s\n", person(r.UserID, r.Username), place(r.Namespace, r.Source, r.Path), asked, r.Allowed)
	if r.State != "" && r.State != authz.StateActive {
		l.add("account", "%s in GitLab", rbacsync.Printable(string(r.State)))
	}
	l.add("they are told", "%s", r.Sentence)
	if r.Trail != nil {
		l.add("member", "%s", r.Trail.Text)
	} else if r.Source != "" {
		l.add("member", "no")
	}
	l.list("GitLab gives", r.given())
	l.list("bound by", r.bound())
	l.list("near", r.Near)
	for i, m := range r.Remedies {
		label := ""
		if i == 0 {
			label = "what helps"
		}
		text := m.Text
		if len(m.Who) > 0 {
			text += ": " + strings.Join(m.Who, ", ")
		}
		l.add(label, "%s", text)
	}
	if r.Asked != nil {
		l.add("kube-apiserver", "%s%s", r.Asked.Allowed, bracketed(rbacsync.Printable(r.Asked.Reason)))
	}
	l.list("differs", r.Differs)
	l.add("known of", "GitLab as it was read at %s; rbacsync.mode %s", r.when(), r.Mode)
	return l.String()
}

func bracketed(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

// allowing ends a line about a role.
func (r *Report) allowing(v authz.Verdict) string {
	switch {
	case r.Request == "":
		return ""
	case v == authz.Yes:
		return ", which allows it"
	case v == authz.No:
		return ", which does not allow it"
	}
	return "; whether it allows it is not known"
}

func (r *Report) given() (out []string) {
	for _, g := range r.Roles {
		line := "ClusterRole " + g.ClusterRole + r.allowing(g.Allows)
		if g.Extra != "" {
			line += "; " + g.Extra
		}
		if g.Absent != "" {
			line += "; but " + g.Why
		}
		out = append(out, line)
	}
	for _, k := range r.Kept {
		out = append(out, fmt.Sprintf("no ClusterRole %s, and they have it%s: %s", k.ClusterRole, r.allowing(k.Allows), k.Why))
	}
	if len(out) == 0 && r.Source != "" {
		out = []string{"nothing"}
	}
	return out
}

func (r *Report) bound() (out []string) {
	for _, b := range r.Bindings {
		line := fmt.Sprintf("RoleBinding %s to %s, for %s%s", b.Name, b.Role, b.Subject, r.allowing(b.Allows))
		if !b.Ours {
			line += "; it is not from GitLab"
		}
		out = append(out, line)
	}
	if len(out) == 0 && r.BindingsError == "" {
		out = []string{"no RoleBinding has them in it"}
	}
	return out
}
