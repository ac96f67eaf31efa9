package ci

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Jobs that get no credentials find a KUBECONFIG without a secret, of the environment scope that is behind all others: GitLab
// gives a job the variable with the more exact scope. kubectl then says in the job log what is missing (docs/adr/0128).

// everywhere is the environment scope of all jobs.
const everywhere = "*"

const kubeconfigKey = "KUBECONFIG"

// explained is what is kept of the explanation that a project was given.
type explained struct {
	// Sums are those that it may have in GitLab, the last one what is wanted.
	Sums []string `json:"sums,omitempty"`
	// Leaving says that it is to go.
	Leaving bool `json:"leaving,omitempty"`
	// Taken says that somebody else has a variable there, which stays.
	Taken bool      `json:"taken,omitempty"`
	At    time.Time `json:"at"` // when that was done or found, or it was taken back
}

// maxExplained bounds Sums: each write that failed leaves one.
const maxExplained = 4

// wrote reports whether a value is an explanation of ours.
func (e *explained) wrote(key, value string) bool {
	return e != nil && key == kubeconfigKey && slices.Contains(e.Sums, sumOf(explanationOf(value)))
}

// there reports whether GitLab may have an explanation of ours.
func (e *explained) there() bool { return e != nil && len(e.Sums) > 0 }

// claimEverywhere says what is ours of the variables for all environments: by our mark, or what is known as an explanation. What was
// delivered for the environment people may have copied there, and then it is theirs.
func (w *work) claimEverywhere(rec *record) Claim {
	return Claim{Cluster: w.facts.id, Replaces: w.p.c.Replaces, Wrote: rec.Explained.wrote}
}

// leaving is the same, to be taken back.
func (e *explained) leaving() *explained {
	if e == nil {
		e = &explained{}
	}
	return &explained{Sums: e.Sums, Leaving: true, At: e.At}
}

// unexplain takes back the explanation of a project that is to go, but for one that it was given elsewhere now. That time is kept:
// readings from before show what was there.
func (w *work) unexplain(ctx context.Context, project int64, rec, now *record) error {
	if e := rec.Explained; e == nil || !e.Leaving {
		return nil
	}
	if w.p.c.Variables == nil {
		return errNoWriter
	}
	if e := now.Explained; now == rec || !e.there() || e.Leaving {
		others := slices.DeleteFunc(Keys(), func(key string) bool { return key == kubeconfigKey })
		if _, err := w.p.c.Variables.Remove(ctx, project, everywhere, others, w.claimEverywhere(rec)); err != nil {
			return fmt.Errorf("taking back what explains to jobs why they have no credentials: %w", err)
		}
	}
	rec.Explained = &explained{At: w.p.c.Now()}
	return nil
}

func explanationOf(text string) Variable {
	return Variable{Key: kubeconfigKey, Value: text, File: true}
}

// explainer is a delivery, as far as jobs without credentials are concerned.
type explainer struct{ *delivery }

// explains reports whether the project should have one. In the other deliveries GitLab itself gives jobs a KUBECONFIG, which a
// variable of the project would hide: from deploy jobs with certificate, and from all others of the agent.
func (d explainer) explains() bool {
	mode := d.project.Delivery
	return d.project.Explain && !d.facts.expands && (mode == rbacsync.DeliverVariables || mode == rbacsync.DeliverIDToken)
}

// explaining is what is to be done about an explanation.
type explaining struct {
	write, remove bool
	v             Variable
	known         *ProjectVariables
	outcome       Part // what becomes of it, as far as that is known; "": nothing
}

// find finds that out, by the record and by what GitLab showed since.
func (d explainer) find() (out explaining, err error) {
	e := d.rec.Explained
	if d.n.Undecided {
		return out, nil // the group that says so may not have been read
	}
	shown := d.project.VariablesRead && (e == nil || d.n.Read.After(e.At))
	i := -1
	if shown {
		out.known = &ProjectVariables{d.project.Variables}
		i = slices.IndexFunc(d.project.Variables, func(v authz.CIVariable) bool {
			return v.Key == kubeconfigKey && v.Scope == everywhere && v.Marked
		})
	}
	if !d.explains() {
		ours := i >= 0 && d.claimEverywhere(&d.rec).names(d.project.Variables[i].Cluster) // also where the record was lost
		if out.remove = e.there() || ours; out.remove && (!shown || i >= 0) {
			out.outcome = Removed
		}
		if out.remove {
			d.rec.Explained = e.leaving()
		}
		return out, nil
	}
	text, err := d.text()
	if err != nil {
		return out, err
	}
	out.v = explanationOf(text)
	sum := sumOf(out.v)
	last := ""
	if e.there() && !e.Leaving {
		last = e.Sums[len(e.Sums)-1]
	}
	switch there := i >= 0; {
	case e != nil && e.Taken && d.p.c.Now().Before(e.At.Add(lookEvery)): // nothing tells when somebody makes room
	case there && handoverOf(d).isThere(d.project.Variables[i], out.v):
		out.write = last != sum // it is looked at, to be noted
	case there && d.project.Variables[i].Cluster != "" && !d.claimEverywhere(&d.rec).names(d.project.Variables[i].Cluster):
		out.write = true // which finds that it is another cluster's
	case there:
		out.write, out.outcome = true, Changed
	case shown, last == "":
		out.write, out.outcome = true, Written
	case last != sum:
		out.write, out.outcome = true, Changed
	}
	return out, nil
}

// remove takes back what is to go where nothing else is done.
func (d explainer) remove(ctx context.Context, x explaining) error {
	if !x.remove {
		return nil
	}
	if err := d.p.pace.Wait(ctx); err != nil {
		return err
	}
	err := d.unexplain(ctx, d.project.ID, &d.rec, &d.rec)
	d.keep()
	if err != nil {
		return deliveryFailed("GitLab project %d: %w", d.project.ID, err)
	}
	return nil
}

// explain gives the project what was found, and corrects the Handover by what came of it. What is to be removed takeBack does.
func (d explainer) explain(ctx context.Context, x explaining, h *Handover) error {
	if !x.write {
		return nil
	}
	h.Explanation = "" // until it is there
	c, id := &d.p.c, d.project.ID
	if c.Variables == nil {
		return deliveryFailed("explaining to jobs of GitLab project %d why they have no credentials: %w", id, errNoWriter)
	}
	if err := d.p.pace.Wait(ctx); err != nil {
		return err
	}
	sum := sumOf(x.v)
	claim := d.claimEverywhere(&d.rec) // before what is about to be written is noted
	before := &explained{}
	if d.rec.Explained != nil {
		before = d.rec.Explained
	}
	sums := append(slices.DeleteFunc(slices.Clone(before.Sums), func(s string) bool { return s == sum }), sum)
	d.rec.Explained = &explained{Sums: sums[max(0, len(sums)-maxExplained):], At: c.Now()}
	d.keep()
	if err := d.save(ctx, nil); err != nil {
		return err
	}
	_, err := c.Variables.Ensure(ctx, id, everywhere, []Variable{x.v}, x.known, claim)
	_, foreign := errors.AsType[*ForeignError](err)
	_, other := errors.AsType[*OtherClusterError](err)
	switch {
	case foreign, other: // what jobs have is theirs
		d.rec.Explained = &explained{Taken: true, At: c.Now()}
	case err != nil:
		return deliveryFailed("explaining to jobs of GitLab project %d why they have no credentials: %w", id, err)
	default:
		d.rec.Explained = &explained{Sums: []string{sum}, At: c.Now()}
		h.Explanation = x.outcome
		if x.outcome != "" {
			c.Logger.InfoContext(ctx, "jobs without CI credentials are told why", "namespace", d.n.Name, "project", id)
		}
	}
	d.keep()
	return nil
}

// nowhere is where the explaining KUBECONFIG leads: no name below .invalid is ever found (RFC 2606), and kubectl shows it.
const nowhere = "https://no-credentials.invalid"

// text is a KUBECONFIG whose plug-in says on stderr, which is in the job log, what a job lacks. All that GitLab's users
// choose (names of branches, tags and environments) is shown by printf as %s, cut, and without control characters; nothing
// of it is ever a part of the script.
func (d explainer) text() (string, error) {
	c := &d.p.c
	script := `LC_ALL=C
show() {
t=$1
s=
while [ -n "$t" ] && [ "${#s}" -lt 100 ]; do
r=${t#?}
f=${t%"$r"}
t=$r
case $f in [" "-"~"]) s=$s$f ;; *) s=$s? ;; esac
done
if [ -n "$t" ]; then s=$s...; fi
}
say() { printf '  - %s\n' "$1" >&2; n=1; }
n=
want=` + quote(c.Scope) + `
printf '%s\n' ` + quote("This job has no credentials for the cluster"+named(c.Name)+":") + ` >&2
if [ -z "${CI_JOB_ID-}" ]; then say "this is not a job of GitLab CI"; fi
show "${CI_ENVIRONMENT_NAME-}"
if [ -z "$s" ]; then say "it has no environment, and needs environment: {name: $want}"
elif [ "$CI_ENVIRONMENT_NAME" != "$want" ]; then say "its environment is \"$s\", and for this cluster it must be \"$want\" (case counts). If \"$s\" is the environment of another cluster, no credentials came from there either: ask the administrators of that cluster"
fi
`
	if !d.project.Unprotected {
		script += `if [ "${CI_COMMIT_REF_PROTECTED-true}" != true ]; then
show "${CI_COMMIT_REF_NAME-}"
if [ "${CI_PIPELINE_SOURCE-}" = merge_request_event ]; then say "the pipeline of a merge request (branch \"$s\") has none: deploy from a protected branch"
elif [ -n "${CI_COMMIT_TAG-}" ]; then say "tag \"$s\" is not protected (Settings > Repository > Protected tags)"
else say "branch \"$s\" is not protected (Settings > Repository > Protected branches)"
fi
fi
`
	}
	if d.project.Delivery == rbacsync.DeliverIDToken {
		script += `if [ -z "${` + IDTokenVariable + `-}" ]; then say ` + quote("it has no ID token, and needs id_tokens: "+IDTokenVariable+": aud: "+c.Audience) + `; fi
`
	}
	script += `if [ -z "$n" ]; then say "its environment and its branch are right, and nothing was delivered yet: run it again in a minute, then ask the administrators of the cluster"; fi
exit 1`
	text, err := kubeconfig(Cluster{URL: nowhere}, "", &clientcmdapi.AuthInfo{Exec: shell(script)}, "")
	if err != nil {
		return "", fmt.Errorf("explaining why jobs have no credentials: %w", err)
	}
	return string(text), nil
}

// named puts a name after what it is the name of, if there is one.
func named(name string) string {
	if name == "" {
		return ""
	}
	return " " + name
}
