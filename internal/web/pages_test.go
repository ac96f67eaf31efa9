package web_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/web"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// many are n namespaces in all states.
func many(n int) []webapi.Namespace {
	at := time.Date(2026, 12, 27, 8, 0, 0, 0, time.UTC)
	states := []string{"", "plan", "held", "unwritten", "failed", "terminating", "foreign", "noRole", "notBindable", "unread", "unknown", "of a later version"}
	outcomes := []string{"delivered", "waiting", "failed", "frozen", "foreign", "other-cluster", "none", "unknown", "of a later version"}
	out := make([]webapi.Namespace, n)
	for i := range out {
		out[i] = webapi.Namespace{
			Name: fmt.Sprintf("haw-world-%03d", i), Source: fmt.Sprint("project/", i), Path: fmt.Sprintf("haw/world-%03d", i), URL: "https://gitlab.example.com/haw/world",
			Roles: []string{"edit", "logs"}, Level: "Developer", Reason: "Developer in haw/world, inherited from haw", State: states[i%len(states)], Why: "for a reason",
		}
		if i%2 == 0 {
			out[i].Until = &at
		}
		if i%3 == 0 {
			out[i].CI = &webapi.CI{Project: int64(i), Path: out[i].Path, Delivery: "variables", Environment: "ICC-K8s", Outcome: outcomes[i/3%len(outcomes)], Good: &at, At: &at, Why: "because"}
		}
	}
	if n > 1 {
		out[1].Source, out[1].Path, out[1].URL, out[1].Level, out[1].Reason = "", "", "", "", "given by this cluster's configuration"
	}
	return out
}

// TestNoFileNow: what passes by itself is said as such, with a way to try again, and what went wrong is for the log.
func TestNoFileNow(t *testing.T) {
	f := newFixture(t, func(o *web.Options) {
		o.Kubeconfig = func(context.Context, kubeconfig.Variant, []string) ([]byte, error) {
			return nil, fmt.Errorf("asking gitlab.example.com: %w", kubeconfig.ErrNotNow)
		}
	})
	b := signedIn(t, f)
	f.clock.add(time.Minute) // of the lines of a second, one is in the log
	for lang, words := range map[string]string{"en": "The file can not be made now", "de": "Die Datei kann gerade nicht erstellt werden"} {
		a := b.get("/kubeconfig?variant=macos", "Accept-Language", lang)
		a.has(t, http.StatusServiceUnavailable, "<h1>"+words+"</h1>", `href="/kubeconfig?variant=macos"`, "!asking gitlab")
		checkHTML(t, lang, lang, a.body)
	}
	if !strings.Contains(f.logged(), "asking gitlab.example.com") {
		t.Errorf("the log: %s", f.logged())
	}
}

// withFile is a page that can make kubeconfigs.
func withFile(o *web.Options) {
	o.Cluster = "icc"
	o.Kubeconfig = func(_ context.Context, v kubeconfig.Variant, namespaces []string) ([]byte, error) {
		return fmt.Appendf(nil, "%s %s", v, strings.Join(namespaces, " ")), nil
	}
}

// everyPage visits all pages, problems too, in one language.
func everyPage(t *testing.T, f *fixture, lang string, look func(name string, a answer)) {
	t.Helper()
	f.people.all[41] = many(130)
	nobody, in := f.browser(), signedIn(t, f)
	accept := []string{"Accept-Language", lang}
	for name, path := range map[string]string{
		"start": "/", "signed out": "/namespaces", "refused": "/refused", "one reason": "/refused?code=user_blocked", "no reason": "/refused?code=%3Cb%3E", "not found": "/nothing",
		"after signing out": "/signedout", "stale": "/signin/callback?code=x&state=y",
	} {
		look(name, nobody.get(path, accept...))
	}
	for name, path := range map[string]string{
		"namespaces": "/namespaces", "second page": "/namespaces?page=2", "beyond the last": "/namespaces?page=99", "found": "/namespaces?q=world-00", "none found": "/namespaces?q=%3Cscript%3E",
		"connect": "/connect", "connect windows": "/connect?system=windows&namespace=haw-world-000", "connect macos": "/connect?system=macos", "connect headless": "/connect?system=headless",
		"no such namespace": "/namespaces/kube-system", "not found, signed in": "/nothing",
	} {
		look(name, in.get(path, accept...))
	}
	for _, n := range many(36) {
		look("namespace "+n.Name, in.get("/namespaces/"+n.Name, accept...))
	}
	look("foreign", in.do(http.MethodPost, "/signout", map[string][]string{"csrf": {"x"}}, accept...))
	f.people.all[41] = nil
	look("no namespace", in.get("/namespaces", accept...))
	for name, err := range map[string]error{"unread": people.ErrUnread, "too slow": context.DeadlineExceeded, "broken": errors.New("secret detail")} {
		f.people.err = err
		look(name, in.get("/namespaces", accept...))
		look(name+" one", in.get("/namespaces/x", accept...))
		look(name+" connect", in.get("/connect?namespace=x", accept...))
	}
	f.people.err = nil
	f.clock.add(3 * time.Hour)
	look("expired", in.get("/namespaces", accept...))
	in = signedIn(t, f)
	f.set(func() { f.states[41] = "blocked" })
	look("blocked", in.get("/namespaces", accept...))
	f.set(func() { delete(f.states, 41) })
}

func attr(n *html.Node, name string) (string, bool) {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val, true
		}
	}
	return "", false
}

// TestEveryPage: each page, in each language, is whole: a title, one first heading, landmarks, a label for each field, no id twice,
// no style and no script of its own, links to this site or with a reason. Each has the headers that make a browser keep to that.
func TestEveryPage(t *testing.T) {
	f := newFixture(t, withFile)
	seen := 0
	for _, lang := range []string{"en", "de"} {
		everyPage(t, f, lang, func(name string, a answer) {
			seen++
			name = lang + " " + name
			checkHeaders(t, name, a.header)
			if strings.Contains(a.body, "secret detail") || strings.Contains(a.body, "<b>") || strings.Contains(a.body, "%!") || a.header.Get("Content-Language") != lang {
				t.Errorf("%s: %s", name, a.body)
			}
			checkHTML(t, name, lang, a.body)
		})
	}
	if seen < 100 {
		t.Errorf("only %d pages", seen)
	}
}

func checkHeaders(t *testing.T, name string, h http.Header) {
	t.Helper()
	csp := h.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "style-src 'self'", "script-src 'self'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
		if !strings.Contains(csp, want) {
			t.Errorf("%s: the policy %q lacks %s", name, csp, want)
		}
	}
	if strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") {
		t.Errorf("%s: policy %q", name, csp)
	}
	for key, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin", "Cache-Control": "no-store", "Cross-Origin-Opener-Policy": "same-origin",
		"Strict-Transport-Security": "max-age=31536000",
	} {
		if h.Get(key) != want {
			t.Errorf("%s: %s is %q", name, key, h.Get(key))
		}
	}
}

func checkHTML(t *testing.T, name, lang, body string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	count, ids, labels := map[string]int{}, map[string]int{}, map[string]bool{}
	var fields []string
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		count[n.Data]++
		for _, a := range n.Attr {
			if a.Key == "style" || strings.HasPrefix(a.Key, "on") || a.Key == "srcdoc" {
				t.Errorf("%s: %s has %s", name, n.Data, a.Key)
			}
			if (a.Key == "href" || a.Key == "src" || a.Key == "action") && !strings.HasPrefix(a.Val, "/") && !strings.HasPrefix(a.Val, "https://") && !strings.HasPrefix(a.Val, "#") {
				t.Errorf("%s: %s leads to %q", name, n.Data, a.Val)
			}
		}
		if id, ok := attr(n, "id"); ok {
			ids[id]++
		}
		switch n.Data {
		case "html":
			if l, _ := attr(n, "lang"); l != lang {
				t.Errorf("%s: lang is %q", name, l)
			}
		case "script":
			if src, _ := attr(n, "src"); !strings.HasPrefix(src, "/static/") || n.FirstChild != nil {
				t.Errorf("%s: a script of its own", name)
			}
		case "style":
			t.Errorf("%s: a style of its own", name)
		case "label":
			id, _ := attr(n, "for")
			labels[id] = true
		case "input", "select", "textarea":
			kind, _ := attr(n, "type")
			if id, _ := attr(n, "id"); kind != "hidden" {
				fields = append(fields, id)
			}
		case "form":
			method, _ := attr(n, "method")
			csrf := 0
			for c := range n.Descendants() {
				if v, _ := attr(c, "name"); v == "csrf" {
					csrf++
				}
			}
			if (method == "post") != (csrf == 1) || (method != "post" && csrf > 0) {
				t.Errorf("%s: a form with method %s and %d tokens", name, method, csrf)
			}
		case "th":
			if scope, _ := attr(n, "scope"); scope == "" {
				t.Errorf("%s: a heading of a table without a scope", name)
			}
		case "img":
			if _, ok := attr(n, "alt"); !ok {
				t.Errorf("%s: an image without words", name)
			}
		}
	}
	for _, field := range fields {
		if field == "" || !labels[field] {
			t.Errorf("%s: field %q has no label", name, field)
		}
	}
	for id, n := range ids {
		if n > 1 {
			t.Errorf("%s: id %q stands %d times", name, id, n)
		}
	}
	if count["h1"] != 1 || count["main"] != 1 || count["title"] != 1 || count["header"] != 1 || count["footer"] != 1 {
		t.Errorf("%s: %d h1, %d main, %d title, %d header, %d footer", name, count["h1"], count["main"], count["title"], count["header"], count["footer"])
	}
	if !strings.Contains(body, `class="skip" href="#main"`) {
		t.Errorf("%s: there is no way past the navigation", name)
	}
}

var nextLink = regexp.MustCompile(`rel="next" href="([^"]*)"`)

// TestPages: with 400 namespaces each is on one page, whether all are shown or some are looked for.
func TestPages(t *testing.T) {
	f := newFixture(t, nil)
	f.people.all[41] = many(400)
	b := signedIn(t, f)
	for q, want := range map[string]int{"": 400, "world-1": 100, "nothing": 0, "haw-world-399": 1} {
		path, seen, pages := "/namespaces?q="+q, map[string]bool{}, 0
		for path != "" {
			a := b.get(path)
			for _, m := range regexp.MustCompile(`<a href="/namespaces/([a-z0-9-]+)"`).FindAllStringSubmatch(a.body, -1) {
				if seen[m[1]] {
					t.Errorf("%q: %s stands twice", q, m[1])
				}
				seen[m[1]] = true
			}
			path = ""
			if m := nextLink.FindStringSubmatch(a.body); m != nil {
				path = html.UnescapeString(m[1])
			}
			if pages++; pages > 20 {
				t.Fatal("no end")
			}
		}
		if len(seen) != want {
			t.Errorf("%q: %d of %d namespaces", q, len(seen), want)
		}
	}
	for _, page := range []string{"0", "-1", "x", "9999999999999999999999", "1000000"} {
		if a := b.get("/namespaces?page=" + page); a.status != http.StatusOK {
			t.Errorf("page %s: %d", page, a.status)
		}
	}
}

// TestNobodyElses: a namespace of others is as one that does not exist.
func TestNobodyElses(t *testing.T) {
	f := newFixture(t, withFile)
	f.people.all[42] = []webapi.Namespace{{Name: "of-bob", Roles: []string{"edit"}}}
	b := signedIn(t, f)
	other, none := b.get("/namespaces/of-bob"), b.get("/namespaces/of-bot")
	if other.status != http.StatusNotFound || strings.ReplaceAll(other.body, "of-bob", "of-bot") != none.body {
		t.Errorf("it can be told from one that does not exist: %d", other.status)
	}
	if a := b.get("/kubeconfig?namespace=of-bob"); strings.Contains(a.body, "of-bob") {
		t.Errorf("the kubeconfig: %s", a.body)
	}
	if a := b.get("/connect?namespace=of-bob%26x"); strings.Contains(a.body, "of-bob&amp;x\"") {
		t.Errorf("connect: %s", a.body)
	}
}

// TestKubeconfig: the file has one's own namespaces, the wanted one first, else the strongest; what is not in the cluster yet comes last.
func TestKubeconfig(t *testing.T) {
	f := newFixture(t, withFile)
	f.people.all[41] = []webapi.Namespace{
		{Name: "c", State: "held"}, {Name: "b"}, {Name: "a"}, {Name: "d"}, {Name: "e"}, // in the order of People
	}
	b := signedIn(t, f)
	for query, want := range map[string]string{
		"":                              "default b a d e c",
		"?variant=windows":              "windows b a d e c",
		"?namespace=d":                  "default d b a e c",
		"?namespace=c":                  "default c b a d e",
		"?variant=headless&namespace=b": "headless b a d e c",
	} {
		a := b.get("/kubeconfig" + query)
		if a.status != http.StatusOK || a.body != want || a.header.Get("Content-Disposition") != `attachment; filename="icc.yaml"` {
			t.Errorf("%s: %d %q %v", query, a.status, a.body, a.header)
		}
	}
	if a := b.get("/kubeconfig?variant=x"); a.status != http.StatusNotFound {
		t.Errorf("a variant that does not exist: %d", a.status)
	}
	if a := f.browser().get("/kubeconfig"); a.status != http.StatusUnauthorized {
		t.Errorf("without a session: %d", a.status)
	}
}

// TestConnectForEachSystem: the browser's system is chosen, or what somebody says; there are three lines to copy, for its shell.
func TestConnectForEachSystem(t *testing.T) {
	f := newFixture(t, withFile)
	b := signedIn(t, f)
	const windows, mac, linux = "Mozilla/5.0 (Windows NT 10.0; Win64; x64)", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)", "Mozilla/5.0 (X11; Linux x86_64)"
	for _, c := range []struct{ agent, query, variant, install, line string }{
		{linux, "", "default", "kubectl-oidc_login", "export KUBECONFIG=~/.kube/icc.yaml"},
		{mac, "", "macos", "brew install kubectl kubelogin", "mv ~/Downloads/icc.yaml"},
		{windows, "", "windows", "winget install Kubernetes.kubectl int128.kubelogin", `$env:KUBECONFIG = &#34;$HOME\.kube\icc.yaml;$HOME\.kube\config&#34;`},
		{windows, "?system=linux", "default", "kubectl-oidc_login", "export KUBECONFIG"},
		{linux, "?system=headless", "headless", "kubectl-oidc_login", f.page.URL + "/api/v1/kubeconfig?variant=headless"},
		{"", "?system=x", "default", "kubectl-oidc_login", "kubectl get pods"},
	} {
		a := b.get("/connect"+c.query, "User-Agent", c.agent)
		for _, want := range []string{"/kubeconfig?variant=" + c.variant, c.install, c.line, "kubectl get pods"} {
			if !strings.Contains(a.body, want) {
				t.Errorf("%q %s lacks %q", c.agent, c.query, want)
			}
		}
	}
	doc, err := os.ReadFile("../../docs/kubeconfig.md")
	if err != nil {
		t.Fatal(err)
	}
	shown, tools := regexp.MustCompile(`(?s)<pre[^>]*><code>([^<]*kubectl get pods)</code>`), regexp.MustCompile(`(?s)<pre[^>]*><code>([^<]*)</code>`)
	for _, system := range []string{"linux", "macos", "windows"} {
		m := shown.FindStringSubmatch(b.get("/connect?system=" + system).body)
		if m == nil || !strings.Contains(string(doc), "\n"+html.UnescapeString(m[1])+"\n") {
			t.Errorf("%s: docs/kubeconfig.md has other lines than the page: %q", system, m)
		}
		m = tools.FindStringSubmatch(b.get("/connect?system=" + system).body)
		if m == nil || !strings.Contains(string(doc), html.UnescapeString(m[1])) {
			t.Errorf("%s: docs/kubeconfig.md installs otherwise than the page: %q", system, m)
		}
	}
	for _, lang := range []string{"en", "de"} { // what keeps the second line is the same everywhere
		const keep = `[Environment]::SetEnvironmentVariable("KUBECONFIG", $env:KUBECONFIG, "User")`
		if a := b.get("/connect?system=windows", "Accept-Language", lang); !strings.Contains(html.UnescapeString(a.body), keep) || !strings.Contains(string(doc), keep) {
			t.Errorf("%s: the page or docs/kubeconfig.md lacks %s", lang, keep)
		}
	}
	without := newFixture(t, nil)
	if a := signedIn(t, without).get("/connect"); !strings.Contains(a.body, "cluster.publicURL") || strings.Contains(a.body, "href=\"/kubeconfig") {
		t.Errorf("where no file can be made: %s", a.body)
	}
}

// TestLastLineWithoutBrowser: the file that is fetched without a browser has no namespaces, so the last line names one of the person's.
func TestLastLineWithoutBrowser(t *testing.T) {
	f := newFixture(t, withFile)
	b := signedIn(t, f)
	for _, c := range []struct {
		mine        []webapi.Namespace
		query, want string
	}{
		{[]webapi.Namespace{{Name: "c", State: "held"}, {Name: "b"}, {Name: "a"}}, "", "kubectl get pods -n b"},
		{[]webapi.Namespace{{Name: "c", State: "held"}, {Name: "b"}, {Name: "a"}}, "&namespace=a", "kubectl get pods -n a"},
		{[]webapi.Namespace{{Name: "c", State: "held"}, {Name: "b"}, {Name: "a"}}, "&namespace=of-bob", "kubectl get pods -n b"},
		{[]webapi.Namespace{{Name: "c", State: "held"}}, "", "kubectl get pods -n c"},
		{nil, "", "kubectl get pods"},
	} {
		f.people.all[41] = c.mine
		if a := b.get("/connect?system=headless" + c.query); !strings.Contains(a.body, "\n"+c.want+"</code>") {
			t.Errorf("%q: the last line is not %q: %s", c.query, c.want, a.body)
		}
		if a := b.get("/connect?system=linux" + c.query); !strings.Contains(a.body, "\nkubectl get pods</code>") {
			t.Errorf("%q: with a browser: %s", c.query, a.body)
		}
	}
}

// TestFileWithoutColon: in KUBECONFIG a colon parts files, and Windows has none in names.
func TestFileWithoutColon(t *testing.T) {
	f := newFixture(t, func(o *web.Options) {
		withFile(o)
		o.Cluster = "c:443"
	})
	b := signedIn(t, f)
	if a := b.get("/kubeconfig"); a.header.Get("Content-Disposition") != `attachment; filename="c-443.yaml"` {
		t.Errorf("the download is called %s", a.header.Get("Content-Disposition"))
	}
	for _, system := range []string{"linux", "macos", "windows", "headless"} {
		a := b.get("/connect?system=" + system)
		if strings.Contains(a.body, "c:443") || !strings.Contains(a.body, "c-443.yaml:~/.kube/config") && !strings.Contains(a.body, `c-443.yaml;$HOME`) {
			t.Errorf("%s: %s", system, a.body)
		}
	}
}

// TestStatic: styles and script are kept by browsers under their fingerprint, are small, and nothing else is served there.
func TestStatic(t *testing.T) {
	f := newFixture(t, nil)
	b := f.browser()
	start := b.get("/")
	found := regexp.MustCompile(`/static/[a-z.]+\?v=[0-9a-f]+`).FindAllString(start.body, -1)
	slices.Sort(found)
	if found = slices.Compact(found); len(found) != 3 {
		t.Fatalf("assets: %v", found)
	}
	for _, path := range found {
		a := b.get(path)
		if a.status != http.StatusOK || !strings.Contains(a.header.Get("Cache-Control"), "immutable") || len(a.body) > 30<<10 || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d, %d bytes, %v", path, a.status, len(a.body), a.header)
		}
		bare, _, _ := strings.Cut(path, "?")
		if a := b.get(bare + "?v=x"); strings.Contains(a.header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s is kept under another fingerprint", bare)
		}
	}
	for _, path := range []string{"/static/", "/static/x", "/static/..%2ftemplates%2flayout.html", "/static/templates/layout.html"} {
		if a := b.get(path); a.status != http.StatusNotFound {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	files, err := filepath.Glob("static/*.css")
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	css, err := os.ReadFile(files[0])
	if err != nil || len(css) > 30<<10 || strings.Contains(string(css), "url(") || strings.Contains(string(css), "@import") {
		t.Errorf("the styles: %d bytes, %v", len(css), err)
	}
}
