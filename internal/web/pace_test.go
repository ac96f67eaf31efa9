package web_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/web"
)

// slowly lets each person make five requests at once, and one in a second.
func slowly(o *web.Options) { o.PerSecond, o.Burst = 1, 5 }

// TestPace: whoever asks more often than one person may is told so, in their language, and nothing is done for them; from all of their
// browsers together, and whatever others do. Styles are for everybody, and so is what needs no session.
func TestPace(t *testing.T) {
	f := newFixture(t, slowly)
	one, two, bob, nobody := signedIn(t, f), signedIn(t, f), f.browser(), f.browser()
	bob.signIn("/", "bob", "bob-pw")
	f.clock.add(time.Minute) // of the lines of a second, one is in the log
	one.get("/namespaces").has(t, http.StatusOK)
	form := url.Values{"csrf": {one.csrf}}
	style := regexp.MustCompile(`/static/app\.css\?v=\w+`).FindString(one.get("/namespaces").body)
	for range 20 {
		one.get(style).has(t, http.StatusOK)
		nobody.get("/").has(t, http.StatusOK)
		nobody.get("/namespaces").has(t, http.StatusUnauthorized)
	}
	two.get("/namespaces").has(t, http.StatusOK)
	two.get("/why").has(t, http.StatusOK)
	one.get("/nothing").has(t, http.StatusNotFound)
	for lang, words := range map[string]string{"en": "Too many requests", "de": "Zu viele Anfragen"} {
		for _, b := range []*browser{one, two} {
			a := b.get("/namespaces?q=x", "Accept-Language", lang)
			a.has(t, http.StatusTooManyRequests, "<h1>"+words+"</h1>", `href="/namespaces?q=x"`, "!haw-world")
			if a.header.Get("Retry-After") == "" {
				t.Error("they are not told how long to wait")
			}
			checkHeaders(t, lang, a.header)
			checkHTML(t, lang, lang, a.body)
		}
	}
	one.do(http.MethodPost, "/signout", form).has(t, http.StatusTooManyRequests, "was not carried out")
	bob.get("/namespaces").has(t, http.StatusOK)
	if !strings.Contains(f.logged(), `event="too many requests of one person" user=41`) {
		t.Errorf("the log: %s", f.logged())
	}
	f.clock.add(time.Second)
	one.get("/namespaces").has(t, http.StatusOK)
	two.get("/namespaces").has(t, http.StatusTooManyRequests)
	f.clock.add(time.Minute)
	for range 5 {
		two.get("/namespaces").has(t, http.StatusOK)
	}
	two.get("/namespaces").has(t, http.StatusTooManyRequests)
}

// TestPaceTellsNoPaths: for who is no administrator, a path for administrators and one that there is none of can't be told apart by when
// and how requests are refused, whatever is sent.
func TestPaceTellsNoPaths(t *testing.T) {
	f, _ := adminFixture(t, slowly)
	alice := f.browser()
	alice.signIn("/namespaces", "alice", "alice-pw")
	alice.get("/namespaces").has(t, http.StatusOK)
	form := url.Values{"csrf": {alice.csrf}}
	mask := regexp.MustCompile(`(%2f|/|%2F)(admin|nothing-here)[^"]*`)
	refused := 0
	ask := func(path func(i int) string) (out []string) {
		f.clock.add(time.Hour) // all that they may
		alice.get("/why")      // which is written into the session now
		for i := range 40 {
			method := []string{http.MethodGet, http.MethodPost, http.MethodGet, http.MethodHead, http.MethodPut}[i%5]
			with := form
			if method != http.MethodPost {
				with = nil
			}
			a := alice.do(method, path(i), with)
			if a.status == http.StatusTooManyRequests {
				refused++
			}
			out = append(out, fmt.Sprint(method, a.status, a.header.Get("Retry-After"), len(a.header), mask.ReplaceAllString(a.body, "")))
			f.clock.add(time.Duration(i%4) * 500 * time.Millisecond)
		}
		return out
	}
	want := ask(func(int) string { return "/nothing-here" })
	for i, got := range ask(func(i int) string { return adminPaths[i%len(adminPaths)] }) {
		if got != want[i] {
			t.Errorf("request %d: %s\nand of a path that there is none of: %s", i, got, want[i])
		}
	}
	if refused < 10 || refused > 70 {
		t.Errorf("%d requests refused", refused)
	}
}

// TestForeignPagesUseUpNoPace: what a page from elsewhere has a browser load is refused and takes nothing; links from elsewhere, and
// GitLab's way back, are limited on their own. Either way a path for administrators and one that there is none of are answered alike.
func TestForeignPagesUseUpNoPace(t *testing.T) {
	f, _ := adminFixture(t, slowly)
	alice := f.browser()
	alice.signIn("/namespaces", "alice", "alice-pw")
	alice.get("/namespaces").has(t, http.StatusOK)
	mask := regexp.MustCompile(`(%2f|/|%2F)(admin|nothing-here)[^"]*`)
	paths := slices.Concat([]string{"/namespaces", "/nothing-here"}, adminPaths)
	for _, site := range []string{"cross-site", "same-site"} {
		f.clock.add(time.Hour)
		alice.get("/namespaces").has(t, http.StatusOK) // which is written into the session now
		for _, mode := range []string{"no-cors", "cors", "websocket", ""} {
			want := alice.get("/nothing-here", "Sec-Fetch-Site", site, "Sec-Fetch-Mode", mode)
			for _, path := range paths {
				a := alice.get(path, "Sec-Fetch-Site", site, "Sec-Fetch-Mode", mode)
				a.has(t, http.StatusForbidden, "not sent from our page", "!Maintainer in haw/world")
				if path != "/namespaces" && (len(a.header) != len(want.header) || mask.ReplaceAllString(a.body, "") != mask.ReplaceAllString(want.body, "")) {
					t.Errorf("%s: %v %s", path, a.header, a.body)
				}
			}
		}
		link := []string{"Sec-Fetch-Site", site, "Sec-Fetch-Mode", "navigate"}
		for range 5 {
			alice.get("/namespaces", link...).has(t, http.StatusOK, "haw-world")
		}
		for _, path := range paths {
			alice.get(path, link...).has(t, http.StatusTooManyRequests, "Too many requests")
		}
		for _, own := range []string{"same-origin", "none", "same-origin", "none"} {
			alice.get("/namespaces", "Sec-Fetch-Site", own, "Sec-Fetch-Mode", "cors").has(t, http.StatusOK)
		}
		alice.get("/namespaces").has(t, http.StatusTooManyRequests) // and these were theirs
	}
	nobody := f.browser()
	if a := nobody.get("/signin?to=/namespaces"); a.status != http.StatusSeeOther {
		t.Fatalf("%d", a.status)
	} else if callback, err := gitlabsim.Login(t.Context(), f.gitlab.Client(), a.location, "alice", "alice-pw"); err != nil {
		t.Fatal(err)
	} else if a := nobody.get(callback, "Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "navigate"); a.location != "/namespaces" {
		t.Errorf("GitLab's way back: %d %s", a.status, a.body)
	}
}

// TestClickingDoesNotReachThePace: with all rows of a list opened in tabs at once three times over, and then ten requests a second for
// as long as one likes. docs/page.md names these numbers.
func TestClickingDoesNotReachThePace(t *testing.T) {
	f := newFixture(t, nil)
	b := signedIn(t, f)
	for range web.DefaultBurst {
		b.get("/namespaces/haw-world").has(t, http.StatusOK)
	}
	for range 10 * web.DefaultPerSecond {
		f.clock.add(time.Second / web.DefaultPerSecond)
		b.get("/namespaces?q=haw").has(t, http.StatusOK)
	}
	b.get("/namespaces").has(t, http.StatusTooManyRequests)
	page, err := os.ReadFile("../../docs/page.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%d requests at once, then %d a second", web.DefaultBurst, web.DefaultPerSecond); !strings.Contains(string(page), want) {
		t.Errorf("docs/page.md does not say %q", want)
	}
}
