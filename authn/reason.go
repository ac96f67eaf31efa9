package authn

import "slices"

// Code is a stable, lower-case reason: part of status.error, of logs and of metric labels. A code is never
// renamed or given another meaning.
type Code string

// Outcome is the class of an answer; each code belongs to exactly one.
type Outcome string

// The outcomes (docs/invariants.md, decision 3). All but OutcomeMalformed are answered with HTTP 200.
const (
	OutcomeOK        Outcome = "ok"
	OutcomeNotMine   Outcome = "not_mine"
	OutcomeDenied    Outcome = "denied"
	OutcomeUndecided Outcome = "undecided"
	OutcomeMalformed Outcome = "malformed"
)

// The reason codes. Reasons says what each one means and what helps.
const (
	CodeOK Code = "ok"

	CodeNotMine       Code = "not_mine"
	CodeEmptyToken    Code = "empty_token"
	CodeNotJWT        Code = "not_a_jwt"
	CodeJWTCutOff     Code = "jwt_cut_off"
	CodeHexToken      Code = "hexadecimal_token"
	CodeForeignIssuer Code = "foreign_issuer"

	CodeTokenTooLarge     Code = "token_too_large"
	CodeNotIDToken        Code = "not_an_id_token"
	CodeMalformedHeader   Code = "malformed_header"
	CodeUnsupportedAlg    Code = "unsupported_algorithm"
	CodeCriticalHeader    Code = "critical_header"
	CodeWrongTokenType    Code = "wrong_token_type"
	CodeMissingKeyID      Code = "missing_key_id"
	CodeUnknownKey        Code = "unknown_key"
	CodeWeakKey           Code = "weak_key"
	CodeUnsupportedKey    Code = "unsupported_key"
	CodeShortSignature    Code = "short_signature"
	CodeBadSignature      Code = "bad_signature"
	CodeMalformedClaims   Code = "malformed_claims"
	CodeMissingAudience   Code = "missing_audience"
	CodeWrongAudience     Code = "wrong_audience"
	CodeMixedAudience     Code = "mixed_audience"
	CodeWrongIssuer       Code = "wrong_issuer"
	CodeMissingExpiry     Code = "missing_expiry"
	CodeTokenExpired      Code = "token_expired"
	CodeMissingIssuedAt   Code = "missing_issued_at"
	CodeIssuedInFuture    Code = "issued_in_future"
	CodeNotYetValid       Code = "not_yet_valid"
	CodeAudienceNotServed Code = "audience_not_served"

	CodeUserSubject         Code = "user_subject_invalid"
	CodeUserIsCIToken       Code = "user_is_ci_token"
	CodeUserBlocked         Code = "user_blocked"
	CodeUserBanned          Code = "user_banned"
	CodeUserDeactivated     Code = "user_deactivated"
	CodeUserPendingApproval Code = "user_pending_approval"
	CodeUserDeleted         Code = "user_deleted"
	CodeUserNotActive       Code = "user_not_active"
	CodeUserNotHuman        Code = "user_not_human"
	CodeUserNotAdmitted     Code = "user_not_admitted"

	CodeCIIsUserToken      Code = "ci_is_user_token"
	CodeCIMissingClaim     Code = "ci_missing_claim"
	CodeCIMalformedClaim   Code = "ci_malformed_claim"
	CodeCIForkMergeRequest Code = "ci_fork_merge_request"
	CodeCINoEnvironment    Code = "ci_no_environment"
	CodeCIWrongEnvironment Code = "ci_wrong_environment"
	CodeCIRefUnprotected   Code = "ci_ref_unprotected"
	CodeCITokenTooOld      Code = "ci_token_too_old"
	CodeCIUserNotActive    Code = "ci_user_not_active"
	CodeCIProjectNotServed Code = "ci_project_not_served"
	CodeCIOtherDelivery    Code = "ci_other_delivery"

	CodeKeysUnavailable   Code = "keys_unavailable"
	CodeKeyNotReadYet     Code = "key_not_read_yet"
	CodeKeysTooOld        Code = "keys_too_old"
	CodeDiscoveryMismatch Code = "discovery_mismatch"
	CodeAdmissionUnknown  Code = "admission_unknown"
	CodeCIProjectsUnread  Code = "ci_projects_unread"
	CodeReviewCancelled   Code = "review_cancelled"
	CodeUnsafeIdentity    Code = "unsafe_identity"
	CodeInternal          Code = "internal_error"

	CodeMethodNotAllowed Code = "method_not_allowed"
	CodeContentType      Code = "unsupported_content_type"
	CodeBodyTooLarge     Code = "body_too_large"
	CodeBodyUnreadable   Code = "body_unreadable"
	CodeNotTokenReview   Code = "not_a_token_review"
)

// Reason explains one code to an operator.
type Reason struct {
	Code    Code
	Outcome Outcome
	// Cause is a sentence without a period; it is what status.error says behind the code.
	Cause string
	// Hint is what helps, or why nothing needs to.
	Hint string
}

// Reasons lists every code with its cause and hint, in a fixed order, for documentation and `token inspect`.
func Reasons() []Reason { return slices.Clone(reasons) }

// forged is what helps against a token that GitLab does not make.
const forged = "Log in again for a new token. If such tokens keep coming, somebody forges them: find the address in kube-apiserver's audit log (requests answered 401) and block it. Nobody is let in by them."

// reasons is never changed.
var reasons = []Reason{
	{CodeOK, OutcomeOK, "the token is valid", "Nothing to do."},

	{CodeNotMine, OutcomeNotMine, "not a token of this GitLab", "Nothing to do: another authenticator's token passed by."},
	{CodeEmptyToken, OutcomeNotMine, "the review holds no token", "Check what sends reviews: kube-apiserver never sends an empty token."},
	{CodeNotJWT, OutcomeNotMine, "the token is not a JSON web token", "Use a GitLab ID token (kubelogin, or id_tokens in CI), and nothing around it: no quotes, no spaces, no \"Bearer\". Passwords and tokens without a prefix of GitLab's are not accepted."},
	{CodeJWTCutOff, OutcomeNotMine, "the token begins as a JSON web token and ends early", "Copy the whole token: three parts with a dot between them; a terminal, a variable or a header may have cut it off."},
	{CodeHexToken, OutcomeNotMine, "the token is 64 hexadecimal digits, as GitLab's OAuth access tokens are", "If GitLab issued it, send the ID token that came with it (kubelogin does)."},
	{CodeForeignIssuer, OutcomeNotMine, "the token was issued by somebody else", "If it should be accepted, compare its iss with the configured GitLab URL letter by letter: no trailing slash, same scheme."},

	{CodeTokenTooLarge, OutcomeDenied, "the token is larger than this webhook accepts", "A person in very many groups gets a large token (groups_direct): raise authn.maxTokenBytes, or leave groups."},
	{CodeNotIDToken, OutcomeDenied, "the token is one of GitLab's, but not an ID token", "Send an ID token: people get it from kubelogin, CI jobs by id_tokens."},
	{CodeMalformedHeader, OutcomeDenied, "the token's header is not valid JSON of the expected form", "GitLab does not make such tokens: something has altered it, or it is forged. " + forged},
	{CodeUnsupportedAlg, OutcomeDenied, "the token is not signed with RS256", "GitLab signs with RS256 only. " + forged},
	{CodeCriticalHeader, OutcomeDenied, "the token demands a header extension that is not understood", "GitLab does not use critical headers. " + forged},
	{CodeWrongTokenType, OutcomeDenied, "the token's type is not JWT", "Send the ID token, not an access or logout token."},
	{CodeMissingKeyID, OutcomeDenied, "the token names no key", "GitLab always sets kid. " + forged},
	{CodeUnknownKey, OutcomeDenied, "the token is signed with a key that GitLab does not publish", "After a change of GitLab's keys this is usual. " + forged},
	{CodeWeakKey, OutcomeDenied, "the signing key has fewer than 2048 bits", "Give GitLab an RSA key of 2048 bits or more (openid_connect_signing_key, ci_jwt_signing_key)."},
	{CodeUnsupportedKey, OutcomeDenied, "the signing key is not an RSA key for RS256 signatures", "GitLab publishes RSA keys only: check what answers at its key URL."},
	{CodeShortSignature, OutcomeDenied, "the signature is shorter than the key makes it: the token was cut off, or is forged", "Copy the whole token: a terminal, a variable or a header may have cut it off. " + forged},
	{CodeBadSignature, OutcomeDenied, "the signature does not match the token", "Something has altered the token, or it is forged. " + forged},
	{CodeMalformedClaims, OutcomeDenied, "a claim has an unexpected form", "Check the GitLab version; if GitLab really issued this token, report it as a bug."},
	{CodeMissingAudience, OutcomeDenied, "the token names no audience", "GitLab always sets aud. " + forged},
	{CodeWrongAudience, OutcomeDenied, "the token is meant for another application", "Use the OAuth application (client id) or the CI audience that this cluster is configured for."},
	{CodeMixedAudience, OutcomeDenied, "the token names audiences of people and of CI jobs", "Give the job's id_tokens entry the CI audience alone."},
	{CodeWrongIssuer, OutcomeDenied, "the token's issuer does not belong to its audience", "Write GitLab's ci_id_tokens_issuer_url into authn.ci.issuer, letter by letter."},
	{CodeMissingExpiry, OutcomeDenied, "the token never expires", "GitLab always sets exp. " + forged},
	{CodeTokenExpired, OutcomeDenied, "the token has expired", "Log in again (kubelogin does it by itself); if it happens at once, compare the clocks of GitLab and this machine, and set the wrong one."},
	{CodeMissingIssuedAt, OutcomeDenied, "the token does not say when it was issued", "GitLab always sets iat. " + forged},
	{CodeIssuedInFuture, OutcomeDenied, "the token was issued in the future", "Compare the clocks of GitLab and this machine, and set the wrong one."},
	{CodeNotYetValid, OutcomeDenied, "the token is not valid yet", "Compare the clocks of GitLab and this machine, and set the wrong one."},
	{CodeAudienceNotServed, OutcomeDenied, "the review asks for audiences this webhook does not serve", "Write what kube-apiserver has as --api-audiences into authn.apiAudiences, or leave that empty."},

	{CodeUserSubject, OutcomeDenied, "the token's subject is not a GitLab user id", "Find out what issued the token: GitLab puts the numeric user id into sub."},
	{CodeUserIsCIToken, OutcomeDenied, "a CI job's token was made for the audience of people", "Give the job's id_tokens entry the CI audience; people log in with kubelogin."},
	{CodeUserBlocked, OutcomeDenied, "the GitLab account is blocked", "Ask a GitLab administrator to unblock it."},
	{CodeUserBanned, OutcomeDenied, "the GitLab account is banned", "Ask a GitLab administrator to lift the ban."},
	{CodeUserDeactivated, OutcomeDenied, "the GitLab account is deactivated", "Sign in to GitLab once; that activates the account."},
	{CodeUserPendingApproval, OutcomeDenied, "the GitLab account waits for approval", "Ask a GitLab administrator to approve it."},
	{CodeUserDeleted, OutcomeDenied, "GitLab does not have the account: it was deleted, or is newer than the last reading", "If the account is new, try again after the next reading of GitLab, in some minutes. If it was deleted, it does not come back: use another one."},
	{CodeUserNotActive, OutcomeDenied, "the GitLab account is not active", "Ask a GitLab administrator about the account's state."},
	{CodeUserNotHuman, OutcomeDenied, "the GitLab account is nobody's: a bot, a service account, a placeholder or one of GitLab's own", "Log in as a person; give programs a ServiceAccount of the cluster."},
	{CodeUserNotAdmitted, OutcomeDenied, "the GitLab account is not among those this cluster lets in", "Become a member of a group or project with rights here (authn.require); it counts from the next reading of GitLab."},

	{CodeCIIsUserToken, OutcomeDenied, "a person's token was made for the audience of CI jobs", "Give the CI audience a name of its own, one that is no OAuth application's client id."},
	{CodeCIMissingClaim, OutcomeDenied, "the CI token lacks a claim that GitLab sets", "Use GitLab 15.7 or newer and id_tokens (CI_JOB_JWT is gone)."},
	{CodeCIMalformedClaim, OutcomeDenied, "an id in the CI token is not a number", "Check the GitLab version; if GitLab really issued this token, report it as a bug."},
	{CodeCIForkMergeRequest, OutcomeDenied, "the job may run code of a fork", "Deploy from a branch of the project itself, after the merge."},
	{CodeCINoEnvironment, OutcomeDenied, "the job has no environment", "Add `environment: {name: …}` with the configured name to the job."},
	{CodeCIWrongEnvironment, OutcomeDenied, "the job's environment is not the configured one", "Use the configured environment name in the job, letter by letter."},
	{CodeCIRefUnprotected, OutcomeDenied, "the job's branch or tag is not protected", "Protect the branch or tag in GitLab, or have an administrator of this cluster exempt the project by its id."},
	{CodeCITokenTooOld, OutcomeDenied, "the job started too long ago", "Deploy earlier in the job or in a job of its own, or raise authn.ci.maxAge."},
	{CodeCIUserNotActive, OutcomeDenied, "the account that started the job is not active in GitLab", "Have somebody with an active account start the job."},

	{CodeCIProjectNotServed, OutcomeDenied, "no jobs of this project have rights in this cluster", "If the project is new, retry the job after the next reading of GitLab, in some minutes. If it is archived or marked for deletion, restore it in GitLab. If the configuration leaves it out (authz.exclude, authz.kinds), ask an administrator of this cluster."},
	{CodeCIOtherDelivery, OutcomeDenied, "the jobs of this project get in by other credentials than ID tokens", "Use the credentials that the job is given (KUBECONFIG), or have an administrator of this cluster choose delivery id-token for the project (ci.projects)."},

	{CodeKeysUnavailable, OutcomeUndecided, "GitLab's signing keys could not be read", "Check that GitLab is up and that this program reaches it and trusts its certificate; reviews recover by themselves."},
	{CodeKeyNotReadYet, OutcomeUndecided, "the token's key is not among GitLab's, but these were read before the token came and may not be read again yet", "Try again in 10 seconds: after a change of GitLab's keys this is usual; if it is unknown_key then, see there."},
	{CodeKeysTooOld, OutcomeUndecided, "GitLab's signing keys could not be read for too long", "Bring GitLab back; known keys are used up to authn.keyMaxAge only."},
	{CodeDiscoveryMismatch, OutcomeUndecided, "GitLab's discovery document does not belong to the configured issuer", "Configure the issuer exactly as GitLab's external_url; where GitLab is read through another host name, set authn.keys.url."},
	{CodeAdmissionUnknown, OutcomeUndecided, "GitLab has not been read yet, so it is not known whom this cluster lets in", "Wait for the first round; if it does not come, see why GitLab can't be read. Only with authn.require."},
	{CodeCIProjectsUnread, OutcomeUndecided, "GitLab has not been read yet, or not this project, so it is not known whether its jobs are let in", "Wait for the first round; if it does not come, or names the project as unread, see why GitLab can't be read."},
	{CodeReviewCancelled, OutcomeUndecided, "the caller gave up before the review was done", "Look for a slow GitLab or an overloaded machine."},
	{CodeUnsafeIdentity, OutcomeUndecided, "the identity is empty or reserved", "This is a bug: report it."},
	{CodeInternal, OutcomeUndecided, "the review failed inside this program", "This is a bug: report it, with the log line of the same request id."},

	{CodeMethodNotAllowed, OutcomeMalformed, "only POST is served", "Point only kube-apiserver's authentication webhook at this path."},
	{CodeContentType, OutcomeMalformed, "only application/json is read", "Point only kube-apiserver's authentication webhook at this path."},
	{CodeBodyTooLarge, OutcomeMalformed, "the request is larger than 1 MiB", "Point only kube-apiserver's authentication webhook at this path."},
	{CodeBodyUnreadable, OutcomeMalformed, "the request body could not be read", "Look for a broken connection between kube-apiserver and this program."},
	{CodeNotTokenReview, OutcomeMalformed, "the request is not a TokenReview of authentication.k8s.io/v1 or v1beta1", "Point only kube-apiserver's authentication webhook at this path."},
}

// ReasonFor returns the explanation of a code; ok is false for a string that is no code.
func ReasonFor(code Code) (reason Reason, ok bool) {
	i := slices.IndexFunc(reasons, func(r Reason) bool { return r.Code == code })
	if i < 0 {
		return Reason{}, false
	}
	return reasons[i], true
}

// describe renders "code: detail", or "code: cause" where there is no detail.
func describe(code Code, detail string) string {
	if detail == "" {
		r, _ := ReasonFor(code)
		detail = r.Cause
	}
	return string(code) + ": " + detail
}
