// A peer for benchmarks: AES-GCM by intel-ipsec-mb, timed on request.
//
// Each line of stdin asks for one sample: API (burst, job, direct), direction (seal, open), key
// bits, bytes of text, number of packets. The answer is one line: nanoseconds for each packet.
// Packets come in batches of 32, each with its own buffers and nonce, 8 bytes of additional
// data and a tag of 16. Seal is in place. Open reads one buffer and writes another, so that it
// always opens what was sealed, and compares tags: all of that is what espalier is timed with.
//
// cc -O2 -o ipsecmb ipsecmb.c -lIPSec_MB

#include <intel-ipsec-mb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { batch = 32, max_text = 65536, aad_len = 8, tag_len = 16, iv_len = 12 };

struct packet {
	uint8_t *from, *to;
	uint8_t iv[iv_len], aad[aad_len], tag[tag_len], want[tag_len];
};

struct request {
	char api[16], direction[16];
	int key_bits, size;
	long packets;
};

static void fail(const char *what)
{
	fprintf(stderr, "ipsecmb: %s\n", what);
	exit(1);
}

static IMB_MGR *mgr;
static struct gcm_key_data *keys;
static struct packet packets[batch];
static volatile uint64_t accepted; // keeps the comparison alive

static int open_it(const struct request *r) { return r->direction[0] == 'o'; }

static void fill(IMB_JOB *job, const struct request *r, struct packet *p)
{
	job->enc_keys = keys;
	job->dec_keys = keys;
	job->key_len_in_bytes = r->key_bits / 8;
	job->src = p->from;
	job->dst = p->to;
	job->cipher_start_src_offset_in_bytes = 0;
	job->msg_len_to_cipher_in_bytes = r->size;
	job->hash_start_src_offset_in_bytes = 0;
	job->msg_len_to_hash_in_bytes = r->size;
	job->iv = p->iv;
	job->iv_len_in_bytes = iv_len;
	job->auth_tag_output = p->tag;
	job->auth_tag_output_len_in_bytes = tag_len;
	job->u.GCM.aad = p->aad;
	job->u.GCM.aad_len_in_bytes = aad_len;
	job->cipher_mode = IMB_CIPHER_GCM;
	job->hash_alg = IMB_AUTH_AES_GMAC;
	job->cipher_direction = open_it(r) ? IMB_DIR_DECRYPT : IMB_DIR_ENCRYPT;
	job->chain_order = open_it(r) ? IMB_ORDER_HASH_CIPHER : IMB_ORDER_CIPHER_HASH;
}

static void by_burst(const struct request *r)
{
	IMB_JOB *jobs[batch];
	if (IMB_GET_NEXT_BURST(mgr, batch, jobs) != batch)
		fail("no room for a burst");
	for (int i = 0; i < batch; i++)
		fill(jobs[i], r, &packets[i]);
	if (IMB_SUBMIT_BURST_NOCHECK(mgr, batch, jobs) != batch)
		fail("a burst was not completed");
}

static void by_job(const struct request *r)
{
	for (int i = 0; i < batch; i++) {
		fill(IMB_GET_NEXT_JOB(mgr), r, &packets[i]);
		if (IMB_SUBMIT_JOB_NOCHECK(mgr) == NULL)
			fail("a job was not completed");
	}
}

static void direct(const struct request *r)
{
	struct gcm_context_data ctx;
	aes_gcm_enc_dec_t f = NULL;
	switch (r->key_bits) {
	case 128: f = open_it(r) ? mgr->gcm128_dec : mgr->gcm128_enc; break;
	case 192: f = open_it(r) ? mgr->gcm192_dec : mgr->gcm192_enc; break;
	case 256: f = open_it(r) ? mgr->gcm256_dec : mgr->gcm256_enc; break;
	}
	for (int i = 0; i < batch; i++) {
		struct packet *p = &packets[i];
		f(keys, &ctx, p->to, p->from, r->size, p->iv, p->aad, aad_len, p->tag, tag_len);
	}
}

static void compare(void)
{
	for (int i = 0; i < batch; i++) {
		uint64_t a[2], b[2];
		memcpy(a, packets[i].tag, tag_len);
		memcpy(b, packets[i].want, tag_len);
		accepted += ((a[0] ^ b[0]) | (a[1] ^ b[1])) == 0;
	}
}

static void prepare(const struct request *r)
{
	uint8_t key[32] = {0};
	switch (r->key_bits) {
	case 128: IMB_AES128_GCM_PRE(mgr, key, keys); break;
	case 192: IMB_AES192_GCM_PRE(mgr, key, keys); break;
	case 256: IMB_AES256_GCM_PRE(mgr, key, keys); break;
	default: fail("key bits");
	}
	if (r->size < 1 || r->size > max_text)
		fail("size");
	for (int i = 0; i < batch; i++) {
		struct packet *p = &packets[i];
		if (posix_memalign((void **)&p->to, 64, r->size))
			fail("memory");
		memset(p->to, i, r->size);
		p->from = p->to;
		p->iv[iv_len - 1] = i;
	}
	if (!open_it(r))
		return;
	struct request s = *r;
	strcpy(s.direction, "seal");
	direct(&s);
	for (int i = 0; i < batch; i++) {
		struct packet *p = &packets[i];
		memcpy(p->want, p->tag, tag_len);
		if (posix_memalign((void **)&p->to, 64, r->size))
			fail("memory");
		memset(p->to, 0, r->size);
	}
}

static void release(void)
{
	for (int i = 0; i < batch; i++) {
		if (packets[i].from != packets[i].to)
			free(packets[i].from);
		free(packets[i].to);
	}
}

static double sample(const struct request *r)
{
	void (*run)(const struct request *) = !strcmp(r->api, "burst") ? by_burst : !strcmp(r->api, "job") ? by_job : direct;
	struct timespec begin, end;
	long done = 0;
	accepted = 0;
	run(r); // caches and branch predictors warm
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (; done < r->packets; done += batch) {
		run(r);
		if (open_it(r))
			compare();
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	if (open_it(r) && accepted != (uint64_t)done)
		fail("a packet does not open");
	return ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / done;
}

static const char *arch_name(void)
{
	switch (mgr->used_arch) {
	case IMB_ARCH_SSE: return "sse";
	case IMB_ARCH_AVX: return "avx";
	case IMB_ARCH_AVX2: return "avx2";
	case IMB_ARCH_AVX512: return "avx512";
	default: return "other";
	}
}

int main(void)
{
	struct request r;
	IMB_ARCH arch;
	mgr = alloc_mb_mgr(0);
	if (mgr == NULL)
		fail("no manager");
	init_mb_mgr_auto(mgr, &arch);
	if (posix_memalign((void **)&keys, 64, sizeof(*keys)))
		fail("memory");
	printf("intel-ipsec-mb %s %s\n", imb_get_version_str(), arch_name());
	fflush(stdout);
	while (scanf("%15s %15s %d %d %ld", r.api, r.direction, &r.key_bits, &r.size, &r.packets) == 5) {
		prepare(&r);
		printf("%.3f\n", sample(&r));
		fflush(stdout);
		release();
	}
	return 0;
}
