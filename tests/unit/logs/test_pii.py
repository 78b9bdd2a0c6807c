"""Personal data and secrets: what must go, what must stay, and that JSON stays JSON.

Cards, accounts and identity numbers are the published test numbers of their issuers; all others are made up.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from engine.logs.pii import KINDS, Scrubber, is_iban, is_resident_id, luhn

HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

FOUND = {
    # e-mail
    "Write to alice.smith+news@mail.example.co.uk, please.": "Write to <EMAIL_1>, please.",
    "我的邮箱是zhang.san@qq.com，谢谢": "我的邮箱是<EMAIL_1>，谢谢",
    "<mailto:bob@example.com>": "<mailto:<EMAIL_1>>",
    "A@B.DE and c_d-e@f-g.org.": "<EMAIL_1> and <EMAIL_2>.",
    "an john@müller.de, müller@example.com oder JOHN@MÜLLER.DE": "an <EMAIL_1>, <EMAIL_2> oder <EMAIL_1>",
    "почта: иван@пример.рф, josé.peña@correo.es!": "почта: <EMAIL_1>, <EMAIL_2>!",
    "mu\u0308ller@example.com": "<EMAIL_1>",
    # telephone
    "请打13812345678找我": "请打<PHONE_1>找我",
    "手机：138 1234 5678": "手机：<PHONE_1>",
    "+86 139-1234-5678": "<PHONE_1>",
    "0086 13912345678。": "<PHONE_1>。",
    "座机010-62345678转8": "座机<PHONE_1>转8",
    "(0755) 26123456": "<PHONE_1>",
    "Call (415) 555-2671 now": "Call <PHONE_1> now",
    "415-555-2671, 1-415-555-2672": "<PHONE_1>, <PHONE_2>",
    "+1 (415) 555-2671": "<PHONE_1>",
    "+44 20 7946 0958 or 020 7946 0958": "<PHONE_1> or <PHONE_1>",
    "07911 123456": "<PHONE_1>",
    "06 12 34 56 78": "<PHONE_1>",
    "0049 30 901820123": "<PHONE_1>",
    "phone: 5550123": "phone: <PHONE_1>",
    "my phone number is 5551234567.": "my phone number is <PHONE_1>.",
    "Tel. 555 0192 33": "Tel. <PHONE_1>",
    "联系电话8765432": "联系电话<PHONE_1>",
    "call 415 555 2671 or 1 415 555 2671.": "call <PHONE_1> or <PHONE_1>.",
    "My phone number is: 4155552671": "My phone number is: <PHONE_1>",
    "手机号是：5551234567": "手机号是：<PHONE_1>",
    "tel +49 30/1234567": "tel <PHONE_1>",
    "Tel. 030/1234567": "Tel. <PHONE_1>",
    # payment card: Visa, Mastercard, American Express, UnionPay, each with its check digit
    "4111 1111 1111 1111": "<CARD_1>",
    "card 4111111111111111, exp 12/29": "card <CARD_1>, exp 12/29",
    "4111-1111-1111-1111 123": "<CARD_1> 123",
    "5555555555554444和378282246310005": "<CARD_1>和<CARD_2>",
    "3782 822463 10005": "<CARD_1>",
    "卡号6200000000000005": "卡号<CARD_1>",
    "4111.1111.1111.1111": "<CARD_1>",
    # identity numbers
    "身份证11010519491231002X": "身份证<ID_1>",
    "身份证号：440524188001010014不对，110101190003071232对": "身份证号：440524188001010014不对，<ID_1>对",
    "SSN 219-09-9999.": "SSN <ID_1>.",
    # accounts
    "IBAN DE89 3704 0044 0532 0130 00": "IBAN <IBAN_1>",
    "GB29NWBK60161331926819 again GB29 NWBK 6016 1331 9268 19": "<IBAN_1> again <IBAN_1>",
    # addresses of machines
    "from 203.0.114.17:8080": "from <IP_1>:8080",
    "http://93.184.216.34/index": "http://<IP_1>/index",
    "2606:2800:220:1:248:1893:25c8:1946": "<IP_1>",
    # keys and passwords
    "sk-proj-abcDEF1234567890abcDEF1234567890": "<KEY_1>",
    "OPENAI_API_KEY=sk-abcDEF1234567890abcDEF12": "OPENAI_API_KEY=<KEY_1>",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a": "<KEY_1>",
    "AKIAIOSFODNN7EXAMPLE": "<KEY_1>",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv": "<KEY_1>",
    "Authorization: Bearer abc123DEF456ghi789jkl": "Authorization: Bearer <KEY_1>",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N": "<KEY_1>",
    f"key={HEX}": "key=<KEY_1>",
    f"token: {HEX[:32]}": "token: <KEY_1>",
    "api_key = 'Zm9vYmFyMTIzNDU2Nzg5MA=='": "api_key = '<KEY_1>'",
    "密钥为a1b2c3d4e5f6a7b8c9d0": "密钥为<KEY_1>",
    "postgres://admin:s3cret@db.internal:5432/x": "postgres://admin:<PASSWORD_1>@db.internal:5432/x",
    # no digit is needed behind a provider's own beginning
    "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": "<KEY_1>",
    "use sk-ant-api-QwErTyUiOpAsDfGhJkLz_XcVb, sk-proj-QwErTyUiOpAsDfGhJkLz": "use <KEY_1>, <KEY_2>",
    "ghp_QwErTyUiOpAsDfGhJkLzXcVbNmQwErTyUiOp": "<KEY_1>",
    "github_pat_QwErTyUiOpAsDfGhJkLzXc_QwErTyUiOpAsDfGh": "<KEY_1>",
    "glpat-QwErTyUiOpAsDfGhJkLz和别的": "<KEY_1>和别的",
    "xoxb-QwErTyUiOp-AsDfGhJkLz和xoxp-qwertyuiop": "<KEY_1>和<KEY_2>",
    "AKIAIOSFODNNQEXAMPLE": "<KEY_1>",
    "sk_live_QwErTyUiOpAsDfGh": "<KEY_1>",
    "ASIAIOSFODNN7EXAMPLE": "<KEY_1>",
    # a label, 'is' and a colon; a label of several words and a space
    "api key is: 0123456789abcdef0123": "api key is: <KEY_1>",
    "api key 0123456789abcdef0123": "api key <KEY_1>",
    "my access token `a1b2c3d4e5f6a7b8c9d0`": "my access token `<KEY_1>`",
    "密钥是：a1b2c3d4e5f6a7b8c9d0": "密钥是：<KEY_1>",
    "AccountName=x;AccountKey=Zm9vYmFyMTIzNDU2Nzg5MGFiY2RlZg==;End": "AccountName=x;AccountKey=<KEY_1>;End",
    "AccountKey=QwErTyUiOpAsDfGhJkLz+/QwErTy==": "AccountKey=<KEY_1>",
    "userToken: a1b2c3d4e5f6a7b8": "userToken: <KEY_1>",
    "My password is: Geheim123": "My password is: <PASSWORD_1>",
    "password: hunter2!": "password: <PASSWORD_1>!",
    "密码是abc12345，别告诉别人": "密码是<PASSWORD_1>，别告诉别人",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA1234567890\n-----END RSA PRIVATE KEY-----": "<KEY_1>",
    "mein Passwort ist Hund1234!": "mein Passwort ist <PASSWORD_1>!",
    "contraseña: Hola1234": "contraseña: <PASSWORD_1>",
    "mot de passe : Azerty12": "mot de passe : <PASSWORD_1>",
    "пароль: qwerty123": "пароль: <PASSWORD_1>",
    "パスワード: abc12345": "パスワード: <PASSWORD_1>",
    "비밀번호: abc12345": "비밀번호: <PASSWORD_1>",
    "teléfono 612 34 56 78": "teléfono <PHONE_1>",
    "第１２章，１３８００１３８０００": "第１２章，<PHONE_1>",
}

KEPT = [
    # years, dates, times
    "From 1990-2024, in 2019 and 2020.",
    "2024-01-15T10:30:00+08:00",
    "15/01/2024 10:30",
    "2024年1月15日10时30分",
    "timestamp 1735689600, in ms 1735689600123",
    "20240115103000",
    # quantities and measurements
    "3.14159265358979",
    "0.13812345678",
    "1,400,000,000 people",
    "13800000000 years",
    "12345.678901 m",
    "+12345.678 K",
    "6.02214076e23",
    "1500 kg, 120/80 mmHg, 37.5 °C",
    "100 200 300 400",
    "001 002 003",
    "1 2 3 4 5 6 7 8 9 10 11 12",
    "39.904200, 116.407400",
    "约13.8亿人",
    "3×10^8 m/s",
    # order numbers, versions, sections, identifiers of science
    "order 48213",
    "订单号12345",
    "invoice 2024-00123",
    "v1.2.3.4",
    "version 10.0.19041.1",
    "Chrome/120.0.6099.109",
    "python 3.11.4, torch==2.13.0",
    "EC 3.2.1.1",
    "section 2.3.1.4",
    "ISBN 978-3-16-148410-0",
    "CAS 7732-18-5",
    "doi:10.1038/s41586-020-2649-2",
    "ENSG00000139618",
    "NM_001126112.3",
    "PMID: 31452104",
    "port 127.0.0.1:8000",
    "192.168.1.20",
    "10.0.0.1",
    "255.255.255.0",
    "52.0.0.0/8",
    # sixteen digits without a check digit, or none that a network gives out
    "4111 1111 1111 1112",
    "1234567812345670",
    "9999999999999995",
    # eighteen digits that are no identity number: wrong check digit, no such day
    "110105194912310021",
    "110105194913310027",
    # looks like an address or a key and is none
    "@alice, see user@localhost",
    "icon@2x.png",
    "git@github.com:org/repo.git",
    "npm i react@18.2.0",
    "a @ b . c",
    "std::vector<int>::iterator",
    "12:30:45",
    "00:1B:44:11:3A:B7",
    "git commit 3773348a9b",
    f"sha256 {HEX}",
    "sk-learn-tutorial-for-beginners-part-2",
    "max_tokens=4096",
    "the token is invalid",
    "password is incorrect",
    "primary key: customer_account_2024_summary",
    "sort key = created_at_timestamp_2",
    "密码长度为8-16位",
    "secret: none",
    "iPhone 15 Pro",
    "phone 14",
    "cell 1234567",
    "call me at 10",
    "电话会议在15楼",
    "Bearer of good news",
    "key=value",
    # near to what a label, a beginning or a row of digits would say
    "250 300 4000 kg",
    "415 555 2671 mm",
    "415 555 2671 300",
    "10 415 555 2671",
    "a 3.415 555 2671",
    "415 555 267",
    "mobile 2023-2024 revenue",
    "mobile 2023/2024 revenue",
    "call me on 2024-01-15",
    "phone: 15/01/2024",
    "+12/05/2024",
    "my phone number is: unknown",
    "tel 12/34/5678",
    "1234.5678.1234.5678",
    "4111.1111.1111.1112",
    "api key customer_account_2024_summary",
    "access token expires_in_3600_seconds",
    "the api key gpt-4o-mini-2024-07-18",
    "api key is: required",
    f"the key {HEX}",
    f"token {HEX}",
    "sortKey=created_at_timestamp_2",
    "AccountKey=value",
    "key=/etc/ssl/private/server1.key",
    "password is: incorrect",
    "My password is: unchanged",
    "hf_hub_download_with_retries_and_a_cache",
    "github_pat_environment_variable",
    "sk-skin-care-for-all-of-the-family",
    "ASIAPACIFICCOMMUNITY",
    "AKIA",
    "xox-",
    "@müller",
    "müller@localhost",
    "größe@2x.png",
    "naïve @ b . c",
    "GB82 WEST 1234 5698 7654 33",
    "US12345678",
    "000-12-3456",
    "Tokyo 2020",
    "Das Passwort ist falsch",
    "le mot de passe est incorrect",
    "телефон 2021 года",
    "Handy 2019 model",
    "価格は１２３４５６７円",
]


@pytest.mark.parametrize(("text", "scrubbed"), FOUND.items())
def test_it_goes(text: str, scrubbed: str):
    assert Scrubber().text(text) == scrubbed


@pytest.mark.parametrize("text", KEPT)
def test_it_stays(text: str):
    scrubber = Scrubber()
    assert scrubber.text(text) == text
    assert not scrubber.counts


def test_every_kind_is_argued_by_an_example():
    shown = "".join(FOUND.values())
    assert all(f"<{kind.name}_1>" in shown for kind in KINDS)


@pytest.mark.parametrize("text", FOUND)
def test_what_was_scrubbed_is_not_scrubbed_again(text: str):
    once = Scrubber().text(text)
    assert Scrubber().text(once) == once


def test_one_value_has_one_placeholder_in_a_conversation_and_each_is_counted():
    scrubber = Scrubber()
    assert scrubber.text("a@x.org, b@x.org, A@X.org") == "<EMAIL_1>, <EMAIL_2>, <EMAIL_1>"
    assert scrubber.text("13812345678 = +86 138 1234 5678; b@x.org") == "<PHONE_1> = <PHONE_1>; <EMAIL_2>"
    assert scrubber.counts == {"EMAIL": 4, "PHONE": 2}
    assert scrubber.distinct == {"EMAIL": 2, "PHONE": 1}


def test_json_in_a_text_stays_json_and_keeps_the_rest():
    call = {
        "name": "send",
        "arguments": {
            "to": "a@x.org",
            "phone": 13812345678,
            "note": 'say "hi" to\nb@x.org',
            "n": 3,
            "ok": True,
            "nothing": None,
            "ids": [13912345678, 48213, 1.5],
            "c@x.org": "key",
            "中文": "电话13712345678",
        },
    }
    text = Scrubber().text(json.dumps(call))
    assert json.loads(text) == {
        "name": "send",
        "arguments": {
            "to": "<EMAIL_1>",
            "phone": "<PHONE_1>",
            "note": 'say "hi" to\n<EMAIL_2>',
            "n": 3,
            "ok": True,
            "nothing": None,
            "ids": ["<PHONE_2>", 48213, 1.5],
            "<EMAIL_3>": "key",
            "中文": "电话<PHONE_3>",
        },
    }


def test_json_without_personal_data_keeps_its_very_bytes():
    for text in ('{"a":  1.0, "a": 2}', "[ 1e3,\n2 ]", "{not json 1}", "[" * 100_000, '{"d": "2024-01-15"}'):
        assert Scrubber().text(text) == text


def test_json_inside_json_is_reached():
    inner = json.dumps({"email": "a@x.org"})
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": inner}}]}
    result = Scrubber().value(message)
    assert json.loads(result["tool_calls"][0]["function"]["arguments"]) == {"email": "<EMAIL_1>"}


@pytest.mark.parametrize(
    ("value", "scrubbed"),
    [
        ({"token": HEX}, {"token": "<KEY_1>"}),
        ({"client_secret": "abc123DEF456ghi789"}, {"client_secret": "<KEY_1>"}),
        ({"password": "hunter2"}, {"password": "<PASSWORD_1>"}),
        ({"phone_number": "555-0123"}, {"phone_number": "555-0123"}),
        ({"phone": "555-0123"}, {"phone": "<PHONE_1>"}),
        ({"phone": 5551234567}, {"phone": "<PHONE_1>"}),
        (
            {"count": 5551234567, "year": 2024, "time": 1735689600},
            {"count": 5551234567, "year": 2024, "time": 1735689600},
        ),
        ({"hash": HEX}, {"hash": HEX}),
        ({"card": 4111111111111111}, {"card": "<CARD_1>"}),
        ([{"role": "user", "content": "a@x.org"}], [{"role": "user", "content": "<EMAIL_1>"}]),
        ("", ""),
        (None, None),
    ],
)
def test_the_key_of_a_value_says_what_it_is(value: Any, scrubbed: Any):
    assert Scrubber().value(value) == scrubbed


def test_check_digits():
    assert [luhn(n) for n in ("79927398713", "79927398710", "4111111111111111")] == [True, False, True]
    assert [is_iban(n) for n in ("DE89 3704 0044 0532 0130 00", "DE88370400440532013000", "DE89")] == [
        True,
        False,
        False,
    ]
    assert [is_resident_id(n) for n in ("11010519491231002X", "11010519491231002x", "110105194912310021")] == [
        True,
        True,
        False,
    ]


REPEATED = [
    "a",
    "1",
    "1 ",
    "1-",
    "a@",
    "a.",
    "key=",
    ":",
    "0 ",
    "+1",
    "(",
    "1.",
    "A1",
    "://a:",
    "1/",
    "key is: ",
    "api key ",
    "ü",
    "a@ü.",
    "415 ",
]


@pytest.mark.slow
@pytest.mark.parametrize("unit", REPEATED)
def test_no_text_takes_long(unit: str):
    """A pattern that tries all ways to split a text would need minutes for this."""
    text = unit * (100_000 // len(unit))
    for kind in KINDS:
        started = time.process_time()
        kind.pattern.sub("", text)
        assert time.process_time() - started < 2, kind


def test_two_keys_of_one_placeholder_keep_both_values():
    assert Scrubber().value({"a@b.org": 1, "A@B.org": 2}) == {"<EMAIL_1>": 1, "<EMAIL_1>'": 2}
