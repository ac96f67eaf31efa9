package web

import (
	"net/http"
	"slices"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
)

// reason is a cause of refused logins in people's words: the texts reason.KEY.text and .do. It stands for several codes, which
// differ only for whoever runs the cluster.
type reason struct {
	Key   string
	For   string // account, token, job or us
	Codes []authn.Code
}

// reasons are those that people can meet, the likeliest first.
var reasons = []reason{
	{"blocked", "account", []authn.Code{authn.CodeUserBlocked, authn.CodeUserBanned}},
	{"deactivated", "account", []authn.Code{authn.CodeUserDeactivated}},
	{"pending", "account", []authn.Code{authn.CodeUserPendingApproval}},
	{"deleted", "account", []authn.Code{authn.CodeUserDeleted}},
	{"inactive", "account", []authn.Code{authn.CodeUserNotActive}},
	{"not_human", "account", []authn.Code{authn.CodeUserNotHuman}},
	{"not_admitted", "account", []authn.Code{authn.CodeUserNotAdmitted}},
	{"expired", "token", []authn.Code{authn.CodeTokenExpired}},
	{"clock", "token", []authn.Code{authn.CodeIssuedInFuture, authn.CodeNotYetValid}},
	{"other_token", "token", []authn.Code{
		authn.CodeNotMine, authn.CodeEmptyToken, authn.CodeNotJWT, authn.CodeJWTCutOff, authn.CodeHexToken, authn.CodeForeignIssuer, authn.CodeNotIDToken, authn.CodeWrongTokenType,
	}},
	{"wrong_app", "token", []authn.Code{authn.CodeWrongAudience, authn.CodeMixedAudience, authn.CodeUserIsCIToken, authn.CodeCIIsUserToken}},
	{"too_large", "token", []authn.Code{authn.CodeTokenTooLarge}},
	{"new_key", "token", []authn.Code{authn.CodeUnknownKey}},
	{"damaged", "token", []authn.Code{
		authn.CodeMalformedHeader, authn.CodeUnsupportedAlg, authn.CodeCriticalHeader, authn.CodeMissingKeyID, authn.CodeWeakKey, authn.CodeUnsupportedKey, authn.CodeShortSignature,
		authn.CodeBadSignature, authn.CodeMalformedClaims, authn.CodeMissingAudience, authn.CodeMissingExpiry, authn.CodeMissingIssuedAt, authn.CodeUserSubject,
	}},
	{"job_environment", "job", []authn.Code{authn.CodeCINoEnvironment, authn.CodeCIWrongEnvironment}},
	{"job_branch", "job", []authn.Code{authn.CodeCIRefUnprotected, authn.CodeCIForkMergeRequest}},
	{"job_project", "job", []authn.Code{authn.CodeCIProjectNotServed, authn.CodeCIOtherDelivery}},
	{"job_user", "job", []authn.Code{authn.CodeCIUserNotActive}},
	{"job_old", "job", []authn.Code{authn.CodeCITokenTooOld}},
	{"job_token", "job", []authn.Code{authn.CodeCIMissingClaim, authn.CodeCIMalformedClaim}},
	{"wait", "us", []authn.Code{
		authn.CodeKeysUnavailable, authn.CodeKeyNotReadYet, authn.CodeKeysTooOld, authn.CodeAdmissionUnknown, authn.CodeCIProjectsUnread, authn.CodeReviewCancelled,
	}},
	{"ours", "us", []authn.Code{authn.CodeWrongIssuer, authn.CodeDiscoveryMismatch, authn.CodeAudienceNotServed, authn.CodeUnsafeIdentity, authn.CodeInternal}},
}

// reasonOf returns the key of a code's words; "" if people can't meet it.
func reasonOf(code authn.Code) string {
	for _, r := range reasons {
		if slices.Contains(r.Codes, code) {
			return r.Key
		}
	}
	return ""
}

// refusedData is what refused.html shows.
type refusedData struct {
	Code     string // that is looked for
	Sections []refusedSection
}

type refusedSection struct {
	For     string
	Reasons []reason
}

// refused says what codes of refused logins mean. Whoever can't sign in needs it most, so it is for everybody.
func (s peoplePages) refused(w http.ResponseWriter, r *http.Request, v *visit) {
	d := refusedData{Code: short(strings.ToLower(strings.TrimSpace(r.URL.Query().Get("code"))))}
	wanted := reasonOf(authn.Code(d.Code))
	for _, group := range []string{"account", "token", "job", "us"} {
		section := refusedSection{For: group}
		for _, r := range reasons {
			if r.For == group && (d.Code == "" || r.Key == wanted) {
				section.Reasons = append(section.Reasons, r)
			}
		}
		if len(section.Reasons) > 0 {
			d.Sections = append(d.Sections, section)
		}
	}
	s.page(w, r, v, "refused", d)
}
