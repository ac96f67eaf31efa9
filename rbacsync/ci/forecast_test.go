package ci_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// has is what GitLab has of all projects: a text for each thing that can change.
func (b *bench) has() map[string]string {
	out := map[string]string{}
	for project, scopes := range b.gitlab.got {
		for scope, vars := range scopes {
			for key, v := range vars {
				out[fmt.Sprint(project, " ", scope, " ", key)] = fmt.Sprint(v)
			}
		}
	}
	for project, integration := range b.clusters.got {
		out[fmt.Sprint(project, " integration")] = integration
	}
	return out
}

// lines says what is different in GitLab.
func lines(before, after map[string]string) (out []string) {
	for k, v := range after {
		switch old, was := before[k]; {
		case !was:
			out = append(out, "+ "+k)
		case old != v:
			out = append(out, "~ "+k)
		}
	}
	for k := range before {
		if _, is := after[k]; !is {
			out = append(out, "- "+k)
		}
	}
	slices.Sort(out)
	return out
}

// foretold are the same lines, of Handovers.
func foretold(handed []ci.Handover, scope string) (out []string) {
	for _, h := range handed {
		for sign, keys := range map[string][]string{"+": h.Write, "~": h.Change} {
			for _, key := range keys {
				out = append(out, fmt.Sprint(sign, " ", h.Project, " ", scope, " ", key))
			}
		}
		at := scope
		if h.Scope != "" {
			at = h.Scope
		}
		for _, key := range h.Remove {
			out = append(out, fmt.Sprint("- ", h.Project, " ", at, " ", key))
		}
		if h.Integration != "" {
			out = append(out, fmt.Sprint(map[ci.Part]string{ci.Written: "+", ci.Changed: "~", ci.Removed: "-"}[h.Integration], " ", h.Project, " integration"))
		}
		if h.Explanation != "" {
			out = append(out, fmt.Sprint(map[ci.Part]string{ci.Written: "+", ci.Changed: "~", ci.Removed: "-"}[h.Explanation], " ", h.Project, " * KUBECONFIG"))
		}
		if (len(h.Change) > 0 || h.Integration == ci.Changed) != (h.Why != "") {
			out = append(out, fmt.Sprintf("%d has the reason %q", h.Project, h.Why))
		}
	}
	slices.Sort(out)
	return out
}

// seen leaves out what can't be foretold: where GitLab did not show the variables, whether what was delivered is still there; and
// where what was delivered is not known any more, whether there is an integration.
func seen(all []string, read, recorded bool) (out []string) {
	if !read && !recorded { // nothing is known
		return nil
	}
	for _, line := range all {
		integration := strings.HasSuffix(line, "integration")
		if integration && !recorded && line[0] == '+' || !read && !integration {
			if line[0] == '-' {
				continue
			}
			line = "~" + line[1:]
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// TestASecretOfATenantKeepsNobodyFromAPlan: nothing is delivered in that namespace, as Provision would, and a finding says why.
func TestASecretOfATenantKeepsNobodyFromAPlan(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	theirs := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "haw-world", Name: kubename.CISecret}}
	if _, err := b.kube.CoreV1().Secrets("haw-world").Create(t.Context(), theirs, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	list := []ci.Namespace{world, project("haw-robot", 43, rbacsync.DeliverVariables)}
	known, err := b.Known(t.Context(), list)
	if err != nil || len(known.Findings) != 1 || known.Findings[0].Source != authz.ProjectID(42) {
		t.Fatalf("findings %v, %v", known.Findings, err)
	}
	snap := &authz.Snapshot{Projects: map[int64]authz.Project{42: {ID: 42}, 43: {ID: 43}}}
	handed := ci.Handovers(list, snap, ci.Terms{Scope: b.Scope, Shown: b.Scope, Cluster: thisCluster, Known: &known, Audience: b.Audience, Agent: b.Agent, Now: b.now})
	if r := b.pass(t, list...); len(handed) != 1 || handed[0].Project != 43 || r.Delivered != 1 || r.Findings[0] != known.Findings[0] {
		t.Errorf("foretold %+v; done %d, findings %v", handed, r.Delivered, r.Findings)
	}
}

// TestThePlanOfDeliveriesComesTrue is a law: whatever happens, to GitLab, the cluster and the configuration, what is foretold of a
// delivery is what Provision then changes in GitLab, and what it says that it has done.
func TestThePlanOfDeliveriesComesTrue(t *testing.T) {
	t.Parallel()
	kinds := map[string]int{}
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 3))
		b := newBench(t)
		mode := rbacsync.DeliverVariables
		unprotected, gone, explain, inFile := false, false, seed%2 == 0, false
		modes := []rbacsync.Delivery{rbacsync.DeliverVariables, rbacsync.DeliverIDToken, rbacsync.DeliverAgent, rbacsync.DeliverCertificate, rbacsync.DeliverNone}
		readers := []int64{2, 3}
		for step := range 8 {
			what := []string{}
			for range r.IntN(3) {
				event := r.IntN(17)
				vars := b.gitlab.got[42][b.Scope]
				switch event {
				case 0, 1, 2:
					mode = modes[r.IntN(len(modes))]
				case 3:
					unprotected = !unprotected
				case 4:
					b.Cluster.URL += "0"
				case 5:
					b.Cluster.CA = append(slices.Clone(b.Cluster.CA), "MORE\n"...)
				case 6:
					if b.clusters.got[42] == "" { // the bench knows one integration, and not of two scopes
						b.Scope = []string{"ICC-K8s", "production"}[r.IntN(2)]
					}
				case 7:
					if len(vars) > 0 {
						delete(vars, slices.Sorted(maps.Keys(vars))[r.IntN(len(vars))])
					}
				case 8:
					if v, ok := vars["KUBE_NAMESPACE"]; ok {
						v.Value = "elsewhere"
						vars["KUBE_NAMESPACE"] = v
					}
				case 9:
					_ = b.kube.CoreV1().Secrets("haw-world").Delete(t.Context(), []string{kubename.CIAnchor, kubename.CISecret}[r.IntN(2)], metav1.DeleteOptions{})
				case 10:
					readers = readers[:1]
				case 11:
					b.account += "x"
				case 12:
					gone = !gone
				case 13:
					b.now = b.now.Add(9 * time.Hour)
				case 14:
					explain = !explain
				case 15:
					inFile = !inFile
				case 16:
					delete(b.gitlab.got[42]["*"], "KUBECONFIG")
				}
				what = append(what, fmt.Sprint(event))
			}
			b.now = b.now.Add(11 * time.Minute)
			n := project("haw-world", 42, mode)
			n.Account, n.Readers, n.Projects[0].Unprotected = b.account, readers, unprotected
			n.Projects[0].Explain, n.Projects[0].TokenInFile = explain, inFile
			if r.IntN(3) > 0 {
				n = b.read(n)
			}
			inGitLab := authz.Project{ID: 42}
			if n.Projects[0].VariablesRead {
				inGitLab.Variables = &n.Projects[0].Variables
			}
			snap := &authz.Snapshot{Projects: map[int64]authz.Project{42: inGitLab}}
			if gone {
				n.Projects, n.Gone, n.Exists = nil, true, true
			}
			list := []ci.Namespace{n}
			known, err := ci.New(b.Config).Known(t.Context(), list)
			if err != nil {
				t.Fatal(err)
			}
			planned := ci.Handovers(list, snap, ci.Terms{
				Scope: b.Scope, Shown: b.Scope, Cluster: thisCluster, Known: &known, Audience: b.Audience, Agent: b.Agent, Now: b.now,
			})
			before := b.has()
			b.Provisioner = ci.New(b.Config)
			report := b.pass(t, n)
			if len(report.Findings) > 0 {
				t.Fatalf("findings: %v", report.Findings)
			}
			read, recorded := snap.Projects[42].Variables != nil, known.Kept["haw-world"].Records != ""
			did := seen(lines(before, b.has()), read, recorded)
			if d := cmp.Diff(did, seen(foretold(planned, b.Scope), read, recorded)); d != "" {
				t.Fatalf("seed %d, step %d, after %v, %s, gone %t, read %t: (-done +foretold):\n%s", seed, step, what, mode, gone, read, d)
			}
			if d := cmp.Diff(did, seen(foretold(report.Handed, b.Scope), read, recorded)); d != "" && !gone { // what is taken back is not looked at before
				t.Fatalf("seed %d, step %d, after %v, %s, gone %t: (-done +reported):\n%s", seed, step, what, mode, gone, d)
			}
			for _, line := range did {
				sign, rest, _ := strings.Cut(line, " ")
				kinds[sign+map[bool]string{true: " integration"}[strings.HasSuffix(rest, "integration")]+map[bool]string{true: " explanation"}[strings.Contains(rest, "*")]]++
			}
		}
	}
	for _, kind := range []string{"+", "~", "-", "+ integration", "~ integration", "- integration", "+ explanation", "- explanation"} {
		if kinds[kind] < 10 {
			t.Errorf("%s was seen %d times: this shows nothing", kind, kinds[kind])
		}
	}
}
